//! Which nodes there are and who owns which shard, for operators, as the node that is asked sees it.

use http::StatusCode;
use poem::Request;

use crate::{
    auth::Caller, extract::Query, gateway::Gateway, openapi::Operation, router::Answer, routes::json, views::Cluster,
};

/// GET /v1/cluster
pub(crate) async fn show(gateway: Gateway, caller: Caller, request: Request) -> Answer {
    Query::of(&request)?.finish()?;
    let deps = gateway.deps();
    let cluster = Cluster::of(deps.bus.topology(), deps.clock.now());
    json(&gateway.reserve_of(&caller), StatusCode::OK, &cluster)
}

pub(crate) fn show_doc() -> Operation {
    Operation::new("getCluster", "tenants", "Show the nodes, their leases, and who owns which shard")
        .describe(
            "For operators of the platform, as the node that is asked sees it: from memory, so also while it is cut off from the \
             others. Of the others it knows what it has heard and read; table.read_ms_ago, and renewed_ms_ago of each lease, say how \
             long ago that was. A tenant belongs to one of 256 shards, and a shard to one node at a time, in an epoch that grows with \
             every owner. A node that is alone owns all of them.",
        )
        .answers::<Cluster>(200, "The nodes and shards")
}
