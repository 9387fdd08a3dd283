//! The tower stack around the request flow: a bound on requests under way, over all threads, that sheds instead of queueing.

use std::convert::Infallible;
use std::rc::Rc;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
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
            match place(&mut stack) {
                Some(place) => place.call(request).await,
                None => Ok(gateway::shed(&core, &peer, &request)),
            }
        }
    })
}

/// Takes a place, if one is free now; the request is still at hand if not.
fn place<S: tower::Service<R>, R>(stack: &mut S) -> Option<&mut S> {
    stack.ready().now_or_never()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::task::coop;

    #[tokio::test]
    async fn a_request_without_a_place_is_not_kept_waiting() {
        let in_flight = InFlight::new(1);
        let stack = || ServiceBuilder::new().layer(in_flight.clone()).service_fn(async |()| Ok::<_, Infallible>(()));
        let (mut first, mut second) = (stack(), stack());
        let under_way = place(&mut first).expect("the only place").call(());
        assert!(place(&mut second).is_none(), "one place for all connections");
        drop(under_way);
        assert!(place(&mut second).is_some(), "it is free again");
    }

    #[tokio::test]
    async fn a_task_that_has_done_much_is_not_taken_for_a_full_house() {
        let mut stack = ServiceBuilder::new().layer(InFlight::new(1)).service_fn(async |()| Ok::<_, Infallible>(()));
        poll_fn(|cx| {
            while let Poll::Ready(piece) = coop::poll_proceed(cx) {
                piece.made_progress();
            }
            Poll::Ready(())
        })
        .await;
        assert!(!coop::has_budget_remaining());
        assert!(place(&mut stack).is_some());
    }
}
