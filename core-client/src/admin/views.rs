//! Views: the running result of a query, to be selected from.

use super::{
    names, positive_secs_as_ms,
    queries::{ParsedSql, TaskState},
    row::{self, Row},
};
use crate::{
    client::Client,
    cluster::{Resource, Target},
    error::{Error, ErrorKind, Result},
    retry::Operation,
};
use hstreamdb_proto::api::{self, ErrorCode, ResourceType};

/// A view.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewInfo {
    /// Name, unique in the cluster.
    pub id: String,
    /// What the query that fills it is doing.
    pub state: TaskState,
    /// Creation in milliseconds since 1970, when the server says it.
    pub created_ms: Option<i64>,
    /// Its statement.
    pub sql: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// The query that fills it, to be terminated before the view is deleted.
    pub query: String,
}

impl From<api::View> for ViewInfo {
    fn from(view: api::View) -> Self {
        ViewInfo {
            id: view.view_id,
            state: TaskState::from_wire(view.status),
            created_ms: positive_secs_as_ms(view.created_time),
            sql: view.sql,
            columns: view.schema,
            query: view.query_name,
        }
    }
}

fn check(operation: &'static str, id: &str) -> Result<()> {
    names::check(operation, ErrorCode::ViewInvalidObjectIdentifier, id)
}

impl Client {
    /// All views.
    ///
    /// # Errors
    /// `Unimplemented` where the server has no views, `Unavailable`, `Timeout`, `Closed`.
    pub async fn list_views(&self) -> Result<Vec<ViewInfo>> {
        let request = api::ListViewsRequest {};
        let response = self
            .unary(
                Operation::read("list views"),
                None,
                Target::Any,
                request,
                |mut client, request| async move { client.list_views(request).await },
            )
            .await?;
        Ok(response.views.into_iter().map(ViewInfo::from).collect())
    }

    /// Describes a view.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument` for a name that is none, and as [`list_views`](Self::list_views).
    pub async fn get_view(&self, id: &str) -> Result<ViewInfo> {
        check("get view", id)?;
        let request = api::GetViewRequest { view_id: id.to_owned() };
        let operation = Operation::read("get view");
        // Any node reads it from the metadata that all share.
        let view = self
            .unary(operation, Some(id), Target::Any, request, |mut client, request| async move {
                client.get_view(request).await
            })
            .await?;
        Ok(view.into())
    }

    /// Deletes a view and its query, which must have been terminated before.
    ///
    /// # Errors
    /// `NotFound` unless missing ones are ignored, `FailedPrecondition` (407) when its query has not been terminated,
    /// `Unimplemented`; `OutcomeUnknown` when the connection broke after the call was sent, unless missing views are
    /// ignored: it is repeated then.
    pub async fn delete_view(&self, id: &str, ignore_missing: bool) -> Result<()> {
        check("delete view", id)?;
        let request = api::DeleteViewRequest { view_id: id.to_owned(), ignore_non_exist: ignore_missing };
        // Without complaints about missing views, deleting twice is deleting once.
        let operation = if ignore_missing {
            Operation::repeatable("delete view")
        } else {
            Operation::once("delete view")
        };
        self.unary(operation, Some(id), Target::Any, request, |mut client, request| async move {
            client.delete_view(request).await
        })
        .await
    }

    /// Selects from a view: one row for each of its groups that the statement leaves. The server is asked which view it
    /// is, then which node has its content, and that node answers.
    ///
    /// # Errors
    /// `InvalidArgument` for a statement that is no select from a view, `NotFound` when there is no such view or its
    /// query does not run, `Internal` when the statement fails while it runs, `Unimplemented`, `Unavailable`, `Timeout`,
    /// `Closed`.
    pub async fn execute_view_query(&self, sql: &str) -> Result<Vec<Row>> {
        let operation = Operation::read("execute view query");
        let view = self.view_of(operation, sql).await?;
        let request = api::ExecuteViewQueryRequest { sql: sql.to_owned() };
        let target = self.node_of_view(&view);
        let response = self
            .unary(operation, Some(&view), target, request, |mut client, request| async move {
                client.execute_view_query(request).await
            })
            .await?;
        Ok(response.results.into_iter().map(row::from_wire).collect())
    }

    /// [`execute_view_query`](Self::execute_view_query) for a view that was made with a namespace: the names in the
    /// statement are prefixed by it.
    ///
    /// # Errors
    /// As [`execute_view_query`](Self::execute_view_query).
    pub async fn execute_view_query_with_namespace(&self, sql: &str, namespace: &str) -> Result<Vec<Row>> {
        let operation = Operation::read("execute view query");
        let view = format!("{namespace}{}", self.view_of(operation, sql).await?);
        let request = api::ExecuteViewQueryWithNamespaceRequest {
            sql: sql.to_owned(),
            namespace: namespace.to_owned(),
        };
        let target = self.node_of_view(&view);
        let response = self
            .unary(operation, Some(&view), target, request, |mut client, request| async move {
                client.execute_view_query_with_namespace(request).await
            })
            .await?;
        Ok(response.results.into_iter().map(row::from_wire).collect())
    }

    async fn view_of(&self, operation: Operation, sql: &str) -> Result<String> {
        match self.parse_sql(sql).await.map_err(|error| error.with_operation(operation.name))? {
            ParsedSql::ViewSelect { view } => Ok(view),
            ParsedSql::Unknown => Err(Error::new(ErrorKind::InvalidArgument, operation.name)
                .with_message("the statement is no select from a view")),
        }
    }

    /// The node that has the view's content, looked up anew: one that no longer has it would say that there is no such
    /// view, which cannot be told from the truth.
    fn node_of_view<'a>(&self, view: &'a str) -> Target<'a> {
        self.cluster.forget_owner(&Resource::Named(ResourceType::ResView, view.to_owned()));
        Target::Named(ResourceType::ResView, view)
    }
}
