//! Queries that run for ever: from create to delete, and statements that are carried out at once.

use super::{
    names, positive_secs_as_ms,
    row::{self, Row},
};
use crate::{client::Client, cluster::Target, error::Result, retry::Operation};
use hstreamdb_proto::api::{self, ErrorCode, ResourceType};

/// What a query, or the query behind a view, is doing.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Being started.
    Creating,
    /// At work.
    Running,
    /// Ended by an error; it can be resumed.
    Aborted,
    /// Paused.
    Paused,
    /// Being started again.
    Resuming,
    /// Ended on request; it can be deleted.
    Terminated,
    /// The server does not know, or says a number that this version does not.
    Unknown(i32),
}

impl TaskState {
    pub(super) fn from_wire(number: i32) -> Self {
        match api::TaskStatusPb::try_from(number) {
            Ok(api::TaskStatusPb::TaskCreating) => TaskState::Creating,
            Ok(api::TaskStatusPb::TaskRunning) => TaskState::Running,
            Ok(api::TaskStatusPb::TaskAborted) => TaskState::Aborted,
            Ok(api::TaskStatusPb::TaskPaused) => TaskState::Paused,
            Ok(api::TaskStatusPb::TaskResuming) => TaskState::Resuming,
            Ok(api::TaskStatusPb::TaskTerminated) => TaskState::Terminated,
            Ok(api::TaskStatusPb::TaskUnknown) | Err(_) => TaskState::Unknown(number),
        }
    }

    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            TaskState::Creating => "creating",
            TaskState::Running => "running",
            TaskState::Aborted => "aborted",
            TaskState::Paused => "paused",
            TaskState::Resuming => "resuming",
            TaskState::Terminated => "terminated",
            TaskState::Unknown(_) => "unknown",
        }
    }
}

/// What a query makes.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueryKind {
    /// Records of a stream: `CREATE STREAM … AS`, `INSERT INTO … SELECT`.
    Stream,
    /// A view: `CREATE VIEW … AS`.
    View,
    /// A number that this version does not know.
    Unknown(i32),
}

impl QueryKind {
    fn from_wire(number: i32) -> Self {
        match api::QueryType::try_from(number) {
            Ok(api::QueryType::CreateStreamAs) => QueryKind::Stream,
            Ok(api::QueryType::CreateViewAs) => QueryKind::View,
            Err(_) => QueryKind::Unknown(number),
        }
    }

    /// Name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            QueryKind::Stream => "stream",
            QueryKind::View => "view",
            QueryKind::Unknown(_) => "unknown",
        }
    }
}

/// A query.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryInfo {
    /// Name, unique in the cluster.
    pub id: String,
    /// What it is doing.
    pub state: TaskState,
    /// Creation in milliseconds since 1970, when the server says it.
    pub created_ms: Option<i64>,
    /// Its statement.
    pub sql: String,
    /// The streams it reads.
    pub sources: Vec<String>,
    /// The stream or view it fills.
    pub result: String,
    /// What it makes.
    pub kind: QueryKind,
    /// Number of the node it runs on.
    pub node_id: u32,
}

impl From<api::Query> for QueryInfo {
    fn from(query: api::Query) -> Self {
        QueryInfo {
            id: query.id,
            state: TaskState::from_wire(query.status),
            created_ms: positive_secs_as_ms(query.created_time),
            sql: query.query_text,
            sources: query.sources,
            result: query.result_name,
            kind: QueryKind::from_wire(query.r#type),
            node_id: query.node_id,
        }
    }
}

/// What a statement is, as the server reads it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedSql {
    /// A select from a view, for [`Client::execute_view_query`].
    ViewSelect {
        /// The view's name.
        view: String,
    },
    /// Something that this version does not know.
    Unknown,
}

fn check(operation: &'static str, id: &str) -> Result<()> {
    names::check(operation, ErrorCode::QueryInvalidObjectIdentifier, id)
}

fn owner(id: &str) -> Target<'_> {
    Target::Named(ResourceType::ResQuery, id)
}

impl Client {
    /// Starts a query that runs until it is terminated: `CREATE STREAM … AS SELECT …`, `INSERT INTO … SELECT …` or
    /// `CREATE VIEW … AS SELECT …`. It sees what is appended from now on.
    ///
    /// # Errors
    /// `AlreadyExists` (code 401; 201 or 501 for its stream or view), `InvalidArgument` for the name (404) or the
    /// statement (402), `NotFound` (200) when a stream it reads does not exist, `FailedPrecondition` for a statement that
    /// makes no such query, `Unimplemented` where the server has no queries; `OutcomeUnknown` when the connection broke
    /// after the call was sent: it is not repeated then, [`get_query`](Self::get_query) tells.
    pub async fn create_query(&self, name: &str, sql: &str) -> Result<QueryInfo> {
        check("create query", name)?;
        let request = api::CreateQueryRequest { sql: sql.to_owned(), query_name: name.to_owned() };
        let operation = Operation::once("create query");
        let query = self
            .unary(operation, Some(name), owner(name), request, |mut client, request| async move {
                client.create_query(request).await
            })
            .await?;
        Ok(query.into())
    }

    /// [`create_query`](Self::create_query) with every name in the statement prefixed by `namespace`, so that tenants do
    /// not see each other.
    ///
    /// # Errors
    /// As [`create_query`](Self::create_query).
    pub async fn create_query_with_namespace(
        &self,
        name: &str,
        sql: &str,
        namespace: &str,
    ) -> Result<QueryInfo> {
        check("create query", name)?;
        let request = api::CreateQueryWithNamespaceRequest {
            sql: sql.to_owned(),
            query_name: name.to_owned(),
            namespace: namespace.to_owned(),
        };
        let operation = Operation::once("create query");
        let query = self
            .unary(operation, Some(name), owner(name), request, |mut client, request| async move {
                client.create_query_with_namespace(request).await
            })
            .await?;
        Ok(query.into())
    }

    /// All queries, those behind views included.
    ///
    /// # Errors
    /// `Unimplemented` where the server has no queries, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_queries(&self) -> Result<Vec<QueryInfo>> {
        let request = api::ListQueriesRequest {};
        let response = self
            .unary(
                Operation::read("list queries"),
                None,
                Target::Any,
                request,
                |mut client, request| async move { client.list_queries(request).await },
            )
            .await?;
        Ok(response.queries.into_iter().map(QueryInfo::from).collect())
    }

    /// Describes a query.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a name that is none, and as [`list_queries`](Self::list_queries).
    pub async fn get_query(&self, id: &str) -> Result<QueryInfo> {
        check("get query", id)?;
        let request = api::GetQueryRequest { id: id.to_owned() };
        let operation = Operation::read("get query");
        let query = self
            .unary(operation, Some(id), owner(id), request, |mut client, request| async move {
                client.get_query(request).await
            })
            .await?;
        Ok(query.into())
    }

    /// Ends a query; it stays listed until it is deleted.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it does not run (406) or has ended (408), `Unimplemented`; `OutcomeUnknown`
    /// as for [`create_query`](Self::create_query).
    pub async fn terminate_query(&self, id: &str) -> Result<()> {
        check("terminate query", id)?;
        let request = api::TerminateQueryRequest { query_id: id.to_owned() };
        let operation = Operation::once("terminate query");
        self.unary(operation, Some(id), owner(id), request, |mut client, request| async move {
            client.terminate_query(request).await
        })
        .await
    }

    /// Pauses a query. Published servers do not offer it: terminate is what they have.
    ///
    /// # Errors
    /// As [`terminate_query`](Self::terminate_query).
    pub async fn pause_query(&self, id: &str) -> Result<()> {
        check("pause query", id)?;
        let request = api::PauseQueryRequest { id: id.to_owned() };
        let operation = Operation::once("pause query");
        self.unary(operation, Some(id), owner(id), request, |mut client, request| async move {
            client.pause_query(request).await
        })
        .await
    }

    /// Starts a query again that was paused or that an error ended. Published servers do not check whether it still
    /// runs: look at its state first, two at work write everything twice.
    ///
    /// # Errors
    /// As [`terminate_query`](Self::terminate_query); `NotFound` (200) also when a stream it reads is gone.
    pub async fn resume_query(&self, id: &str) -> Result<()> {
        check("resume query", id)?;
        let request = api::ResumeQueryRequest { id: id.to_owned() };
        let operation = Operation::once("resume query");
        self.unary(operation, Some(id), owner(id), request, |mut client, request| async move {
            client.resume_query(request).await
        })
        .await
    }

    /// Deletes a query that has ended. The stream it filled stays.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` when it has not ended (407) or a view stands on it (403; delete the view),
    /// `Unimplemented`, `OutcomeUnknown` as for [`create_query`](Self::create_query).
    pub async fn delete_query(&self, id: &str) -> Result<()> {
        check("delete query", id)?;
        let request = api::DeleteQueryRequest { id: id.to_owned() };
        let operation = Operation::once("delete query");
        self.unary(operation, Some(id), owner(id), request, |mut client, request| async move {
            client.delete_query(request).await
        })
        .await
    }

    /// Runs a statement and gives the rows it answers. Published servers take `EXPLAIN` and pausing and resuming of
    /// connectors here and name the right call for everything else.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is no SQL (402) or a select that would not end, `Internal` with the call to use
    /// instead, `Unimplemented`; `OutcomeUnknown` as for [`create_query`](Self::create_query): what a statement does is
    /// not known here, so none is repeated.
    pub async fn execute_query(&self, sql: &str) -> Result<Vec<Row>> {
        let request = api::CommandQuery { stmt_text: sql.to_owned() };
        // Statements may hold secrets, so errors and spans do not repeat them.
        let response = self
            .unary(
                Operation::once("execute query"),
                None,
                Target::Any,
                request,
                |mut client, request| async move { client.execute_query(request).await },
            )
            .await?;
        Ok(response.result_set.into_iter().map(row::from_wire).collect())
    }

    /// Asks the server what a statement is.
    ///
    /// # Errors
    /// `InvalidArgument` for text that is no SQL (402) or no select from a view, `Unimplemented`, `Unavailable`,
    /// `Timeout`, `Closed`.
    pub async fn parse_sql(&self, sql: &str) -> Result<ParsedSql> {
        let request = api::ParseSqlRequest { sql: sql.to_owned() };
        let response = self
            .unary(
                Operation::read("parse sql"),
                None,
                Target::Any,
                request,
                |mut client, request| async move { client.parse_sql(request).await },
            )
            .await?;
        Ok(match response.sql {
            Some(api::parse_sql_response::Sql::EvqSql(select)) => ParsedSql::ViewSelect { view: select.view },
            None => ParsedSql::Unknown,
        })
    }
}
