//! Connectors: programs that the cluster runs to bring records in from other systems and out to them.

use super::{
    names,
    row::{self, Row},
    timestamp_ms,
};
use crate::{
    client::Client,
    cluster::{Resource, Target},
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api::{self, ErrorCode, ResourceType};
use std::{fmt, time::Duration};

/// Published servers give the program of a connector 15 s to look at its configuration or to describe itself, and may
/// have to fetch it before.
const PROGRAM_PATIENCE: Duration = Duration::from_secs(25);

/// Which way a connector moves records.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConnectorKind {
    /// From another system into streams.
    Source,
    /// Out of streams into another system.
    Sink,
    /// What the server says and this version does not know.
    Unknown(String),
}

impl ConnectorKind {
    fn from_wire(text: String) -> Self {
        match text.to_ascii_uppercase().as_str() {
            "SOURCE" => ConnectorKind::Source,
            "SINK" => ConnectorKind::Sink,
            _ => ConnectorKind::Unknown(text),
        }
    }

    /// `SOURCE` or `SINK`, or what the server said.
    pub fn name(&self) -> &str {
        match self {
            ConnectorKind::Source => "SOURCE",
            ConnectorKind::Sink => "SINK",
            ConnectorKind::Unknown(text) => text,
        }
    }
}

/// What a connector is doing.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConnectorState {
    /// Stored, not started yet.
    New,
    /// At work.
    Running,
    /// Stopped on request.
    Stopped,
    /// Its program ended with an error.
    Failed,
    /// Its program is done.
    Completed,
    /// Deleted.
    Deleted,
    /// What the server says and this version does not know.
    Unknown(String),
}

impl ConnectorState {
    fn from_wire(text: String) -> Self {
        match text.as_str() {
            "NEW" => ConnectorState::New,
            "RUNNING" => ConnectorState::Running,
            "STOPPED" => ConnectorState::Stopped,
            "FAILED" => ConnectorState::Failed,
            "COMPLETED" => ConnectorState::Completed,
            "DELETED" => ConnectorState::Deleted,
            _ => ConnectorState::Unknown(text),
        }
    }

    /// In capitals, as servers write it.
    pub fn name(&self) -> &str {
        match self {
            ConnectorState::New => "NEW",
            ConnectorState::Running => "RUNNING",
            ConnectorState::Stopped => "STOPPED",
            ConnectorState::Failed => "FAILED",
            ConnectorState::Completed => "COMPLETED",
            ConnectorState::Deleted => "DELETED",
            ConnectorState::Unknown(text) => text,
        }
    }
}

/// A connector.
#[non_exhaustive]
#[derive(Clone, PartialEq)]
pub struct ConnectorInfo {
    /// Name, unique in the cluster.
    pub name: String,
    /// Which way it moves records.
    pub kind: ConnectorKind,
    /// The other system, such as `mysql`.
    pub target: String,
    /// Creation in milliseconds since 1970, when the server says it.
    pub created_ms: Option<i64>,
    /// What it is doing.
    pub state: ConnectorState,
    /// Its configuration, JSON text. May hold secrets: `Debug` leaves it out.
    pub config: String,
    /// How far it has come, as its program reports it.
    pub offsets: Vec<Row>,
    /// Number of its run.
    pub task_id: String,
    /// The node it runs on, as the server names it.
    pub node: String,
    /// State of its container.
    pub docker_status: String,
    /// Image of its container.
    pub image: String,
}

impl fmt::Debug for ConnectorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorInfo")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("target", &self.target)
            .field("created_ms", &self.created_ms)
            .field("state", &self.state)
            .field("offsets", &self.offsets)
            .field("task_id", &self.task_id)
            .field("node", &self.node)
            .field("docker_status", &self.docker_status)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

impl From<api::Connector> for ConnectorInfo {
    fn from(connector: api::Connector) -> Self {
        ConnectorInfo {
            name: connector.name,
            kind: ConnectorKind::from_wire(connector.r#type),
            target: connector.target,
            created_ms: timestamp_ms(connector.creation_time),
            state: ConnectorState::from_wire(connector.status),
            config: connector.config,
            offsets: connector.offsets.into_iter().map(row::from_wire).collect(),
            task_id: connector.task_id,
            node: connector.node,
            docker_status: connector.docker_status,
            image: connector.image,
        }
    }
}

fn check(operation: &'static str, name: &str) -> Result<()> {
    names::check(operation, ErrorCode::ConnectorInvalidObjectIdentifier, name)
}

fn owner(name: &str) -> Target<'_> {
    Target::Named(ResourceType::ResConnector, name)
}

impl Client {
    /// Creates and starts a connector to a system such as `mysql`; `config` is the JSON text that its program asks for,
    /// see [`connector_spec`](Self::connector_spec). The server lets the program look at it first: a try is given at
    /// least 25 s, within `total_timeout_ms`.
    ///
    /// # Errors
    /// `AlreadyExists` (601), `InvalidArgument` for the name (603) or kind (602), `FailedPrecondition` (604) with what the
    /// program says about the configuration in [`extra`](crate::Error::extra), `Unimplemented` (605) for a system that
    /// the server has no program for, or a server without connectors; `OutcomeUnknown` when the connection broke after
    /// the call was sent: it is not repeated then, [`get_connector`](Self::get_connector) tells.
    pub async fn create_connector(
        &self,
        name: &str,
        kind: ConnectorKind,
        target: &str,
        config: &str,
    ) -> Result<ConnectorInfo> {
        check("create connector", name)?;
        let request = api::CreateConnectorRequest {
            name: name.to_owned(),
            r#type: kind.name().to_owned(),
            target: target.to_owned(),
            config: config.to_owned(),
        };
        let operation = Operation::once("create connector").patient(PROGRAM_PATIENCE);
        let connector = self
            .unary(operation, Some(name), owner(name), request, |mut client, request| async move {
                client.create_connector(request).await
            })
            .await?;
        Ok(connector.into())
    }

    /// All connectors that were not deleted.
    ///
    /// # Errors
    /// `Unimplemented` where the server has no connectors, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_connectors(&self) -> Result<Vec<ConnectorInfo>> {
        let operation = Operation::read("list connectors");
        let request = api::ListConnectorsRequest {};
        let response = self
            .unary(operation, None, Target::Any, request, |mut client, request| async move {
                client.list_connectors(request).await
            })
            .await?;
        Ok(response.connectors.into_iter().map(ConnectorInfo::from).collect())
    }

    /// Describes a connector.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a name that is none, and as [`list_connectors`](Self::list_connectors).
    pub async fn get_connector(&self, name: &str) -> Result<ConnectorInfo> {
        check("get connector", name)?;
        let request = api::GetConnectorRequest { name: name.to_owned() };
        let operation = Operation::read("get connector");
        let connector = self
            .unary(operation, Some(name), self.fresh_owner(name), request, |mut client, request| async move {
                client.get_connector(request).await
            })
            .await?;
        Ok(connector.into())
    }

    /// What the program for a system takes as configuration: a JSON schema, as text. A try is given at least 25 s.
    ///
    /// # Errors
    /// `Unimplemented` (605) for a system that the server has no program for, and as
    /// [`list_connectors`](Self::list_connectors).
    pub async fn connector_spec(&self, kind: ConnectorKind, target: &str) -> Result<String> {
        let request =
            api::GetConnectorSpecRequest { r#type: kind.name().to_owned(), target: target.to_owned() };
        let operation = Operation::read("get connector spec").patient(PROGRAM_PATIENCE);
        let response = self
            .unary(operation, Some(target), Target::Any, request, |mut client, request| async move {
                client.get_connector_spec(request).await
            })
            .await?;
        Ok(response.spec)
    }

    /// Lines of a connector's log: `count` from line `begin` on; the first line is 1.
    ///
    /// # Errors
    /// `InvalidArgument` for line 0 or a number beyond 2^31 - 1, and as [`get_connector`](Self::get_connector).
    pub async fn connector_logs(&self, name: &str, begin: u32, count: u32) -> Result<String> {
        check("get connector logs", name)?;
        let (Some(begin), Ok(count)) =
            (i32::try_from(begin).ok().filter(|begin| *begin > 0), i32::try_from(count))
        else {
            return Err(Error::new(ErrorKind::InvalidArgument, "get connector logs")
                .with_resource(name)
                .with_message("lines are counted from 1 to 2147483647"));
        };
        let request = api::GetConnectorLogsRequest { name: name.to_owned(), begin, count };
        let operation = Operation::read("get connector logs");
        let response = self
            .unary(operation, Some(name), self.fresh_owner(name), request, |mut client, request| async move {
                client.get_connector_logs(request).await
            })
            .await?;
        Ok(response.logs)
    }

    /// Changes a connector's configuration: members of `config`, JSON text, replace those of the same name, and the
    /// connector starts again. A try is given at least 25 s.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` (604) as for [`create_connector`](Self::create_connector), `Unimplemented`,
    /// `OutcomeUnknown`.
    pub async fn alter_connector_config(&self, name: &str, config: &str) -> Result<()> {
        check("alter connector config", name)?;
        let request = api::AlterConnectorConfigRequest { name: name.to_owned(), config: config.to_owned() };
        let operation = Operation::once("alter connector config").patient(PROGRAM_PATIENCE);
        self.unary(operation, Some(name), owner(name), request, |mut client, request| async move {
            client.alter_connector_config(request).await
        })
        .await
    }

    /// Stops a connector; it keeps its place.
    ///
    /// # Errors
    /// `NotFound`, `Unimplemented`, `OutcomeUnknown` as for [`create_connector`](Self::create_connector).
    pub async fn pause_connector(&self, name: &str) -> Result<()> {
        check("pause connector", name)?;
        let request = api::PauseConnectorRequest { name: name.to_owned() };
        let operation = Operation::once("pause connector");
        self.unary(operation, Some(name), owner(name), request, |mut client, request| async move {
            client.pause_connector(request).await
        })
        .await
    }

    /// Starts a connector again where it stopped.
    ///
    /// # Errors
    /// As [`pause_connector`](Self::pause_connector).
    pub async fn resume_connector(&self, name: &str) -> Result<()> {
        check("resume connector", name)?;
        let request = api::ResumeConnectorRequest { name: name.to_owned() };
        let operation = Operation::once("resume connector");
        self.unary(operation, Some(name), owner(name), request, |mut client, request| async move {
            client.resume_connector(request).await
        })
        .await
    }

    /// Stops and deletes a connector. What it wrote stays.
    ///
    /// # Errors
    /// As [`pause_connector`](Self::pause_connector).
    pub async fn delete_connector(&self, name: &str) -> Result<()> {
        check("delete connector", name)?;
        let request = api::DeleteConnectorRequest { name: name.to_owned() };
        let operation = Operation::once("delete connector");
        self.unary(operation, Some(name), owner(name), request, |mut client, request| async move {
            client.delete_connector(request).await
        })
        .await
    }

    /// The owner, looked up anew: these calls are answered from a node's own memory, and one that no longer owns the
    /// connector says that there is none.
    fn fresh_owner<'a>(&self, name: &'a str) -> Target<'a> {
        self.cluster.forget_owner(&Resource::Named(ResourceType::ResConnector, name.to_owned()));
        owner(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_kept_when_it_is_new_here() {
        assert_eq!(ConnectorKind::from_wire("source".into()), ConnectorKind::Source);
        assert_eq!(ConnectorKind::from_wire("Mirror".into()).name(), "Mirror");
        assert_eq!(ConnectorState::from_wire("RUNNING".into()), ConnectorState::Running);
        assert_eq!(ConnectorState::from_wire("DREAMING".into()).name(), "DREAMING");
    }

    #[test]
    fn a_configuration_is_not_shown() {
        let wire = api::Connector { config: "hunter2".into(), name: "c".into(), ..Default::default() };
        let shown = format!("{:?}", ConnectorInfo::from(wire));
        assert!(shown.contains("\"c\"") && !shown.contains("hunter2"), "{shown}");
    }
}
