//! Connectors.

use super::state::{Answer, State, refuse};
use hstreamdb_proto::api::{self, ErrorCode, ResourceType};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use serde_json::json;
use tonic::Code;

fn no_connector<T>(name: String) -> Answer<T> {
    refuse(Code::NotFound, ErrorCode::ConnectorNotFound, "ConnectorNotFound", name)
}

fn no_program<T>(target: String) -> Answer<T> {
    refuse(Code::Unimplemented, ErrorCode::ConnectorUnimplemented, "ConnectorUnimplemented", target)
}

impl State {
    pub fn create_connector(
        &mut self,
        node: usize,
        request: api::CreateConnectorRequest,
    ) -> Answer<api::Connector> {
        self.check_owner(ResourceType::ResConnector, &request.name, node)?;
        if !matches!(request.r#type.to_uppercase().as_str(), "SOURCE" | "SINK") {
            let code = ErrorCode::ConnectorInvalidType;
            return refuse(Code::InvalidArgument, code, "InvalidConnectorType", request.r#type);
        }
        if request.target != "mysql" {
            return no_program(request.target);
        }
        if self.connectors.contains_key(&request.name) {
            return refuse(Code::AlreadyExists, ErrorCode::ConnectorExists, "ConnectorExists", request.name);
        }
        if !request.config.contains("host") {
            let why = json!({ "result": false, "message": "host is missing" });
            return refuse(
                Code::FailedPrecondition,
                ErrorCode::ConnectorCheckFailed,
                "ConnectorCheckFailed",
                why,
            );
        }
        let position = Value { kind: Some(Kind::NumberValue(7.0)) };
        let connector = api::Connector {
            name: request.name.clone(),
            r#type: request.r#type,
            target: request.target,
            creation_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            status: "RUNNING".into(),
            config: request.config,
            offsets: vec![Struct { fields: [("position".to_owned(), position)].into() }],
            task_id: "task-1".into(),
            node: format!("node-{node}"),
            docker_status: "running".into(),
            image: "connector/source-mysql:latest".into(),
        };
        self.connectors.insert(request.name, connector.clone());
        Ok(connector)
    }

    pub fn list_connectors(
        &mut self,
        _: usize,
        _: api::ListConnectorsRequest,
    ) -> Answer<api::ListConnectorsResponse> {
        Ok(api::ListConnectorsResponse { connectors: self.connectors.values().cloned().collect() })
    }

    /// Out of the node's own memory, without a look at who owns it.
    pub fn get_connector(
        &mut self,
        node: usize,
        request: api::GetConnectorRequest,
    ) -> Answer<api::Connector> {
        let here = self.owner(ResourceType::ResConnector, &request.name) == node;
        match self.connectors.get(&request.name).filter(|_| here) {
            Some(connector) => Ok(connector.clone()),
            None => no_connector(request.name),
        }
    }

    pub fn get_connector_spec(
        &mut self,
        _: usize,
        request: api::GetConnectorSpecRequest,
    ) -> Answer<api::GetConnectorSpecResponse> {
        if request.target != "mysql" {
            return no_program(request.target);
        }
        Ok(api::GetConnectorSpecResponse { spec: format!(r#"{{"kind":"{}"}}"#, request.r#type) })
    }

    pub fn get_connector_logs(
        &mut self,
        node: usize,
        request: api::GetConnectorLogsRequest,
    ) -> Answer<api::GetConnectorLogsResponse> {
        self.get_connector(node, api::GetConnectorRequest { name: request.name })?;
        let lines = (request.begin..request.begin + request.count).map(|line| format!("line {line}\n"));
        Ok(api::GetConnectorLogsResponse { logs: lines.collect() })
    }

    fn owned(&mut self, node: usize, name: String) -> Answer<&mut api::Connector> {
        self.check_owner(ResourceType::ResConnector, &name, node)?;
        match self.connectors.get_mut(&name) {
            Some(connector) => Ok(connector),
            None => no_connector(name),
        }
    }

    pub fn pause_connector(&mut self, node: usize, request: api::PauseConnectorRequest) -> Answer<()> {
        self.owned(node, request.name)?.status = "STOPPED".into();
        Ok(())
    }

    pub fn resume_connector(&mut self, node: usize, request: api::ResumeConnectorRequest) -> Answer<()> {
        self.owned(node, request.name)?.status = "RUNNING".into();
        Ok(())
    }

    pub fn alter_connector_config(
        &mut self,
        node: usize,
        request: api::AlterConnectorConfigRequest,
    ) -> Answer<()> {
        self.owned(node, request.name)?.config = request.config;
        Ok(())
    }

    pub fn delete_connector(&mut self, node: usize, request: api::DeleteConnectorRequest) -> Answer<()> {
        self.owned(node, request.name.clone())?;
        self.connectors.remove(&request.name);
        Ok(())
    }
}
