//! What the nodes share: who owns what, what was called, what is stored.

use hstreamdb_proto::{
    api::{self, ErrorCode, ResourceType},
    error_body::ErrorBody,
};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tonic::{Code, Status};

pub type Answer<T> = Result<T, Status>;

#[derive(Default)]
pub struct State {
    ports: Vec<u16>,
    /// By kind and id; what is not here belongs to node 0.
    pub owners: HashMap<(i32, String), usize>,
    /// Node and name of every call, in order.
    pub calls: Vec<(usize, String)>,
    /// How often the answer to a call is lost.
    pub lost: HashMap<String, u32>,
    /// How long a call takes.
    pub delays: HashMap<String, Duration>,
    /// Nodes that refuse a call.
    pub refused: HashMap<String, Vec<usize>>,
    /// Nodes that the cluster lists as dead.
    pub dead: Vec<usize>,
    pub queries: BTreeMap<String, api::Query>,
    pub views: BTreeMap<String, api::View>,
    pub schemas: BTreeMap<String, api::Schema>,
    pub connectors: BTreeMap<String, api::Connector>,
}

/// An error in the published form.
pub fn refuse<T>(
    code: Code,
    error: ErrorCode,
    class: &str,
    extra: impl Into<serde_json::Value>,
) -> Answer<T> {
    Err(Status::new(code, ErrorBody::new(error, class, extra).to_json()))
}

impl State {
    pub fn new(ports: Vec<u16>) -> State {
        State { ports, ..State::default() }
    }

    pub fn put_owner(&mut self, kind: ResourceType, id: &str, node: usize) {
        self.owners.insert((kind as i32, id.to_owned()), node);
    }

    pub fn owner(&self, kind: ResourceType, id: &str) -> usize {
        self.owners.get(&(kind as i32, id.to_owned())).copied().unwrap_or(0)
    }

    pub fn check_owner(&self, kind: ResourceType, id: &str, node: usize) -> Answer<()> {
        if self.owner(kind, id) == node {
            return Ok(());
        }
        let text = "The resource is allocated to a different node";
        refuse(Code::FailedPrecondition, ErrorCode::WrongServer, "WrongServer", text)
    }

    fn node(&self, number: usize) -> api::ServerNode {
        api::ServerNode {
            id: number as u32 + 1,
            host: "127.0.0.1".into(),
            port: u32::from(self.ports[number]),
            version: None,
        }
    }

    pub fn describe(&mut self, _: usize, (): ()) -> Answer<api::DescribeClusterResponse> {
        let state = |number: &usize| {
            if self.dead.contains(number) { api::NodeState::Dead } else { api::NodeState::Running }
        };
        let status = |number: usize| api::ServerNodeStatus {
            node: Some(self.node(number)),
            state: state(&number) as i32,
        };
        let all = 0..self.ports.len();
        Ok(api::DescribeClusterResponse {
            protocol_version: "0.1.0".into(),
            server_nodes: all
                .clone()
                .filter(|number| !self.dead.contains(number))
                .map(|number| self.node(number))
                .collect(),
            server_nodes_status: all.map(status).collect(),
            cluster_up_time: 1,
        })
    }

    pub fn lookup_resource(
        &mut self,
        _: usize,
        request: api::LookupResourceRequest,
    ) -> Answer<api::ServerNode> {
        let kind = ResourceType::try_from(request.res_type).unwrap();
        let owner = if kind == ResourceType::ResView {
            match self.views.get(&request.res_id) {
                Some(view) => self.owner(ResourceType::ResQuery, &view.query_name),
                None => {
                    return refuse(Code::NotFound, ErrorCode::QueryNotFound, "ViewNotFound", request.res_id);
                }
            }
        } else {
            self.owner(kind, &request.res_id)
        };
        Ok(self.node(owner))
    }

    pub fn lookup_shard(
        &mut self,
        _: usize,
        request: api::LookupShardRequest,
    ) -> Answer<api::LookupShardResponse> {
        Ok(api::LookupShardResponse { shard_id: request.shard_id, server_node: Some(self.node(0)) })
    }

    pub fn lookup_subscription(
        &mut self,
        _: usize,
        request: api::LookupSubscriptionRequest,
    ) -> Answer<api::LookupSubscriptionResponse> {
        let server_node = Some(self.node(0));
        Ok(api::LookupSubscriptionResponse { subscription_id: request.subscription_id, server_node })
    }

    pub fn lookup_shard_reader(
        &mut self,
        _: usize,
        request: api::LookupShardReaderRequest,
    ) -> Answer<api::LookupShardReaderResponse> {
        Ok(api::LookupShardReaderResponse { reader_id: request.reader_id, server_node: Some(self.node(0)) })
    }

    pub fn lookup_key(&mut self, _: usize, _: api::LookupKeyRequest) -> Answer<api::ServerNode> {
        Ok(self.node(0))
    }
}
