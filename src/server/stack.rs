//! The tower stack around the request flow: a bound on requests under way, over all threads, that sheds instead of queueing.

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::util::ServiceExt;

use crate::gateway;
use crate::gateway::core::{Core, Peer};
use crate::gateway::reply::ReplyBody;

/// The places for requests under way, shared by all threads.
pub type InFlight = GlobalConcurrencyLimitLayer;

/// Makes the service of one connection.
pub fn service(
    core: Rc<Core>,
    peer: Rc<Peer>,
    in_flight: &InFlight,
) -> impl Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible, Future: 'static> + use<> {
    let stack = ServiceBuilder::new().layer(LoadShedLayer::new()).layer(in_flight.clone()).service_fn({
        let (core, peer) = (core.clone(), peer.clone());
        move |request| {
            let (core, peer) = (core.clone(), peer.clone());
            async move { Ok::<_, Infallible>(gateway::serve(core, peer, request).await) }
        }
    });
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let (stack, core, peer) = (stack.clone(), core.clone(), peer.clone());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        peer.progress.begin(&request);
        async move {
            // The flow itself does not fail: an error is the load being shed.
            let answer = stack.oneshot(request).await;
            Ok(answer.unwrap_or_else(|_| gateway::shed(&core, &peer, method, uri)))
        }
    })
}
