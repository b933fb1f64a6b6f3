//! Queries, views and schemas.

use super::state::{Answer, State, refuse};
use hstreamdb_proto::api::{self, ErrorCode, QueryType, ResourceType, TaskStatusPb};
use prost_types::{Struct, Value, value::Kind};
use tonic::{Code, Status};

/// A row with one SQL integer, as the published server writes it.
fn row(name: &str, number: &str) -> Struct {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let long = Struct { fields: [("$numberLong".to_owned(), text(number))].into() };
    Struct {
        fields: [
            ("city".to_owned(), text(name)),
            ("n".to_owned(), Value { kind: Some(Kind::StructValue(long)) }),
        ]
        .into(),
    }
}

/// The word after this one.
fn word_after<'a>(sql: &'a str, word: &str) -> Option<&'a str> {
    sql.split_whitespace().skip_while(|next| *next != word).nth(1)
}

fn no_query<T>(id: String) -> Answer<T> {
    refuse(Code::NotFound, ErrorCode::QueryNotFound, "QueryNotFound", id)
}

/// Published servers say "view not found" under the code of queries.
fn no_view<T>(id: String) -> Answer<T> {
    refuse(Code::NotFound, ErrorCode::QueryNotFound, "ViewNotFound", id)
}

impl State {
    fn start_query(&mut self, node: usize, sql: String, name: String, prefix: &str) -> Answer<api::Query> {
        if sql.is_empty() {
            return refuse(Code::InvalidArgument, ErrorCode::QueryInvalidSql, "InvalidQuerySql", "empty");
        }
        self.check_owner(ResourceType::ResQuery, &name, node)?;
        if self.queries.contains_key(&name) {
            return refuse(Code::AlreadyExists, ErrorCode::QueryExists, "QueryExists", name);
        }
        let view = word_after(&sql, "VIEW").map(|view| format!("{prefix}{view}"));
        let stream = word_after(&sql, "STREAM").map(|stream| format!("{prefix}{stream}"));
        let Some(result_name) = view.clone().or(stream) else {
            return refuse(Code::FailedPrecondition, ErrorCode::InternalError, "WrongExecutionPlan", sql);
        };
        let kind = if view.is_some() { QueryType::CreateViewAs } else { QueryType::CreateStreamAs };
        let query = api::Query {
            id: name.clone(),
            status: TaskStatusPb::TaskRunning as i32,
            created_time: 1_700_000_000,
            query_text: sql.clone(),
            sources: word_after(&sql, "FROM").map(|source| format!("{prefix}{source}")).into_iter().collect(),
            result_name,
            r#type: kind as i32,
            node_id: node as u32 + 1,
        };
        if let Some(view) = view {
            let described = api::View {
                view_id: view.clone(),
                status: query.status,
                created_time: query.created_time,
                sql,
                schema: vec!["city".into(), "n".into()],
                query_name: name.clone(),
            };
            self.views.insert(view, described);
        }
        self.queries.insert(name, query.clone());
        Ok(query)
    }

    pub fn create_query(&mut self, node: usize, request: api::CreateQueryRequest) -> Answer<api::Query> {
        self.start_query(node, request.sql, request.query_name, "")
    }

    pub fn create_query_with_namespace(
        &mut self,
        node: usize,
        request: api::CreateQueryWithNamespaceRequest,
    ) -> Answer<api::Query> {
        self.start_query(node, request.sql, request.query_name, &request.namespace)
    }

    pub fn list_queries(&mut self, _: usize, _: api::ListQueriesRequest) -> Answer<api::ListQueriesResponse> {
        Ok(api::ListQueriesResponse { queries: self.queries.values().cloned().collect() })
    }

    fn query(&mut self, node: usize, id: String) -> Answer<&mut api::Query> {
        self.check_owner(ResourceType::ResQuery, &id, node)?;
        match self.queries.get_mut(&id) {
            Some(query) => Ok(query),
            None => no_query(id),
        }
    }

    pub fn get_query(&mut self, node: usize, request: api::GetQueryRequest) -> Answer<api::Query> {
        self.query(node, request.id).map(|query| query.clone())
    }

    pub fn terminate_query(&mut self, node: usize, request: api::TerminateQueryRequest) -> Answer<()> {
        let query = self.query(node, request.query_id.clone())?;
        if query.status() != TaskStatusPb::TaskRunning {
            return refuse(Code::Aborted, ErrorCode::QueryNotRunning, "QueryNotRunning", request.query_id);
        }
        query.set_status(TaskStatusPb::TaskTerminated);
        Ok(())
    }

    pub fn resume_query(&mut self, node: usize, request: api::ResumeQueryRequest) -> Answer<()> {
        let query = self.query(node, request.id.clone())?;
        if query.status() == TaskStatusPb::TaskTerminated {
            let code = ErrorCode::QueryAlreadyTerminated;
            return refuse(Code::FailedPrecondition, code, "QueryAlreadyTerminated", request.id);
        }
        query.set_status(TaskStatusPb::TaskRunning);
        Ok(())
    }

    pub fn delete_query(&mut self, node: usize, request: api::DeleteQueryRequest) -> Answer<()> {
        let query = self.query(node, request.id.clone())?;
        if query.r#type() == QueryType::CreateViewAs {
            let code = ErrorCode::QueryFoundAssociatedView;
            return refuse(Code::FailedPrecondition, code, "FoundAssociatedView", request.id);
        }
        if query.status() == TaskStatusPb::TaskRunning {
            let code = ErrorCode::QueryNotTerminated;
            return refuse(Code::FailedPrecondition, code, "QueryNotTerminated", request.id);
        }
        self.queries.remove(&request.id);
        Ok(())
    }

    pub fn execute_query(
        &mut self,
        _: usize,
        request: api::CommandQuery,
    ) -> Answer<api::CommandQueryResponse> {
        if let Some(plan) = request.stmt_text.strip_prefix("EXPLAIN ") {
            let text = Value { kind: Some(Kind::StringValue(format!("plan of {plan}"))) };
            let row = Struct { fields: [("explain".to_owned(), text)].into() };
            return Ok(api::CommandQueryResponse { result_set: vec![row] });
        }
        if request.stmt_text.contains("EMIT CHANGES") {
            let text = "push select";
            return refuse(Code::InvalidArgument, ErrorCode::InternalError, "InvalidSqlStatement", text);
        }
        refuse(Code::Internal, ErrorCode::InternalError, "DiscardedMethod", "use CreateQuery")
    }

    pub fn parse_sql(&mut self, _: usize, request: api::ParseSqlRequest) -> Answer<api::ParseSqlResponse> {
        if !request.sql.starts_with("SELECT ") {
            let extra = request.sql;
            return refuse(
                Code::InvalidArgument,
                ErrorCode::InternalError,
                "SQLNotSupportedByParseSQL",
                extra,
            );
        }
        let view = word_after(&request.sql, "FROM").unwrap_or_default().to_owned();
        let select = api::ExecuteViewQuerySql { view };
        Ok(api::ParseSqlResponse { sql: Some(api::parse_sql_response::Sql::EvqSql(select)) })
    }

    pub fn list_views(&mut self, _: usize, _: api::ListViewsRequest) -> Answer<api::ListViewsResponse> {
        Ok(api::ListViewsResponse { views: self.views.values().cloned().collect() })
    }

    pub fn get_view(&mut self, _: usize, request: api::GetViewRequest) -> Answer<api::View> {
        match self.views.get(&request.view_id) {
            Some(view) => Ok(view.clone()),
            None => no_view(request.view_id),
        }
    }

    pub fn delete_view(&mut self, _: usize, request: api::DeleteViewRequest) -> Answer<()> {
        let Some(view) = self.views.get(&request.view_id) else {
            return if request.ignore_non_exist { Ok(()) } else { no_view(request.view_id) };
        };
        let query = view.query_name.clone();
        if self.queries.get(&query).is_some_and(|query| query.status() != TaskStatusPb::TaskTerminated) {
            let code = ErrorCode::QueryNotTerminated;
            return refuse(Code::FailedPrecondition, code, "QueryNotTerminated", query);
        }
        self.views.remove(&request.view_id);
        self.queries.remove(&query);
        Ok(())
    }

    /// Only the node of the view's query has its content.
    fn select(&mut self, node: usize, sql: &str, prefix: &str) -> Answer<api::ExecuteViewQueryResponse> {
        let view = format!("{prefix}{}", word_after(sql, "FROM").unwrap_or_default());
        let here = |view: &api::View| self.owner(ResourceType::ResQuery, &view.query_name) == node;
        if !self.views.get(&view).is_some_and(here) {
            return no_view(view);
        }
        if sql.contains(" WHERE 1/0") {
            return Err(Status::unknown("UnKnown exception: division by zero"));
        }
        Ok(api::ExecuteViewQueryResponse { results: vec![row("Ulm", "9007199254740993"), row("Bonn", "2")] })
    }

    pub fn execute_view_query(
        &mut self,
        node: usize,
        request: api::ExecuteViewQueryRequest,
    ) -> Answer<api::ExecuteViewQueryResponse> {
        self.select(node, &request.sql, "")
    }

    pub fn execute_view_query_with_namespace(
        &mut self,
        node: usize,
        request: api::ExecuteViewQueryWithNamespaceRequest,
    ) -> Answer<api::ExecuteViewQueryResponse> {
        self.select(node, &request.sql, &request.namespace)
    }

    pub fn register_schema(&mut self, _: usize, request: api::Schema) -> Answer<()> {
        self.schemas.entry(request.owner.clone()).or_insert(request);
        Ok(())
    }

    pub fn get_schema(&mut self, _: usize, request: api::GetSchemaRequest) -> Answer<api::Schema> {
        match self.schemas.get(&request.owner) {
            Some(schema) => Ok(schema.clone()),
            None => refuse(Code::NotFound, ErrorCode::InternalError, "ObjectNotFound", request.owner),
        }
    }

    pub fn unregister_schema(&mut self, _: usize, request: api::UnregisterSchemaRequest) -> Answer<()> {
        self.schemas.remove(&request.owner);
        Ok(())
    }
}
