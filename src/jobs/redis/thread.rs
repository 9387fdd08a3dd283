//! The store's thread: takes what callers ask, connects again when the connection is lost, and looks after itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::check;
use super::connect::{Link, millis};
use super::context::Context;
use super::index;
use crate::jobs::store::{Cause, StoreError};
use crate::limits;

/// An operation that waits for its turn.
pub(super) type Ask = Box<dyn FnOnce(Arc<Context>) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Serves the queue until nobody is left who could ask; tells `opened` of the first attempt to connect.
pub(super) fn run(context: Arc<Context>, asks: mpsc::Receiver<Ask>, opened: SyncSender<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the job store's thread could not start");
            return context.set_health(Err(Cause::Closed));
        }
    };
    runtime.block_on(async {
        tokio::spawn(stay_connected(Arc::clone(&context), opened));
        tokio::spawn(look_after(Arc::clone(&context)));
        serve(&context, asks).await;
    });
    // Not dropped: that would wait for a name's look-up that hangs.
    runtime.shutdown_background();
}

async fn serve(context: &Arc<Context>, mut asks: mpsc::Receiver<Ask>) {
    let places = Arc::new(Semaphore::new(limits::REDIS_IN_FLIGHT));
    while let Some(ask) = asks.recv().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let work = ask(Arc::clone(context));
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
    }
}

/// Makes a connection whenever there is none, and gives it out once a write has succeeded on it.
async fn stay_connected(context: Arc<Context>, opened: SyncSender<()>) {
    let mut links = context.link.subscribe();
    for number in 1.. {
        match open(&context, number).await {
            Ok(link) => {
                context.set_health(Ok(()));
                context.attempted(Some(link));
                count(&context).await;
            }
            Err(cause) => {
                context.set_health(Err(cause));
                context.attempted(None);
            }
        }
        // Nobody listens after the first time, or when that took too long.
        let _ = opened.try_send(());
        if context.link.borrow().is_none() {
            sleep(limits::REDIS_RETRY).await;
        } else if links.wait_for(Option::is_none).await.is_err() {
            return;
        }
        if context.closed.load(Ordering::Acquire) {
            return;
        }
    }
}

async fn open(context: &Context, number: u64) -> Result<Link, Cause> {
    let link = Link::connect(&context.location, number, context.replicas).await?;
    probe(context, &link).await?;
    check::look(context, &link).await;
    Ok(link)
}

/// Counts what is open, for those who ask without waiting.
async fn count(context: &Context) {
    if let Ok(counts) = index::counts(context).await {
        context.set_open(counts);
    }
}

/// Writes something of no meaning: a Redis that reads may still refuse writes.
async fn probe(context: &Context, link: &Link) -> Result<(), Cause> {
    let key = context.keys.probe();
    let mut command = redis::cmd("SET");
    command.arg(&key).arg(&*context.run).arg("PX").arg(millis(limits::REDIS_CHECK));
    link.write(&key, &command, true).await.map(|_| ()).map_err(|error| match error {
        StoreError::NotWritten(cause) | StoreError::MaybeWritten(cause) | StoreError::Unavailable(cause) => cause,
    })
}

/// Counts what is open, notices a connection that has died in silence, finds out when writes succeed again, and now and
/// then whether Redis keeps what it is given.
async fn look_after(context: Arc<Context>) {
    let mut ticks = interval(limits::REDIS_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut checked = Instant::now();
    loop {
        ticks.tick().await;
        if context.closed.load(Ordering::Acquire) {
            return;
        }
        let link = context.link.borrow().clone();
        let Some(link) = link else { continue };
        count(&context).await;
        if context.health().is_err() && context.link.borrow().as_ref().is_some_and(|held| held.number == link.number) {
            let health = probe(&context, &link).await;
            context.set_health(health);
        }
        if checked.elapsed() >= limits::REDIS_CHECK {
            checked = Instant::now();
            check::look(&context, &link).await;
        }
    }
}
