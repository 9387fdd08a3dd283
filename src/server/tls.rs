//! TLS towards clients: the handshake, within its time, then HTTP as both sides agreed on (RFC 7301).

use std::rc::Rc;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::gateway::core::Core;
use crate::http::socket::{Socket, Tcp};
use crate::limits;
use crate::routing::tls::ServerTls;
use crate::server::entry::Entry;
use crate::server::stack::InFlight;
use crate::server::{Stage, connection, h2};

/// Serves one connection from its first byte to its end.
pub async fn serve(core: Rc<Core>, in_flight: InFlight, entry: Entry, stage: watch::Receiver<Stage>, tls: ServerTls) {
    let Entry { tcp, guest } = entry;
    // A future of its own, so that what a handshake needs is gone when it is over.
    let socket = Box::pin(shake_hands(Tcp::new(tcp), &tls, stage.clone())).await;
    drop(tls);
    let result = match &socket {
        Ok(socket) if socket.is_http2() => "h2",
        Ok(_) => "http1",
        Err(failed) => failed,
    };
    core.gateway.metrics.tls_handshakes.with_label_values(&[result]).inc();
    let Ok(socket) = socket else { return };
    if socket.is_http2() {
        Box::pin(h2::serve(core, in_flight, socket, guest, stage)).await;
    } else {
        Box::pin(connection::serve(core, in_flight, socket, guest, stage)).await;
    }
}

/// Returns the word for what the handshake came to if it failed.
async fn shake_hands(tcp: Tcp, tls: &ServerTls, mut stage: watch::Receiver<Stage>) -> Result<Socket, &'static str> {
    // Its files were read before the table that it stands in served.
    let Some(made) = &tls.made else { return Err("failed") };
    let accepting = timeout(tls.handshake_timeout, TlsAcceptor::from(made.value.clone()).accept(tcp));
    let leaving = async {
        // An error means that the sender is gone: the process is ending.
        let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
        sleep(limits::FIRST_REQUEST).await;
    };
    tokio::select! {
        accepted = accepting => match accepted {
            Ok(Ok(stream)) => Ok(Socket::Tls(Box::new(TlsStream::Server(stream)))),
            Ok(Err(error)) => {
                // The client's: it left, speaks no TLS, or does not trust the certificate. It was sent an alert.
                tracing::debug!(%error, "TLS handshake failed");
                Err("failed")
            }
            Err(_) => Err("timed_out"),
        },
        () = leaving => Err("timed_out"),
    }
}
