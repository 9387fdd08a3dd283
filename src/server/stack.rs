//! The tower stack around the request flow: a bound on requests under way, over all threads, that sheds instead of queueing.

use std::convert::Infallible;
use std::rc::Rc;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tokio::task::unconstrained;
use tower::Service as _;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
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
    let stack = ServiceBuilder::new().layer(in_flight.clone()).service_fn({
        let (core, peer) = (core.clone(), peer.clone());
        move |request| {
            let (core, peer) = (core.clone(), peer.clone());
            async move { Ok::<_, Infallible>(gateway::serve(core, peer, request).await) }
        }
    });
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let (mut stack, core, peer) = (stack.clone(), core.clone(), peer.clone());
        peer.progress.begin(&request);
        let request = Box::new(request);
        async move {
            // Not ready at once means that no place is free; `unconstrained`, lest a busy connection's spent budget
            // look like that.
            match unconstrained(stack.ready()).now_or_never() {
                Some(Ok(place)) => place.call(request).await,
                _ => Ok(gateway::shed(&core, &peer, &request)),
            }
        }
    })
}
