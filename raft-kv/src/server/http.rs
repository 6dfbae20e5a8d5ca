//! Serves `/metrics`, `/health` and `/ready` over HTTP, on a thread of its own, so that whoever
//! scrapes never takes time from consensus.
//!
//! The endpoint has no authentication and changes nothing; it belongs on an address that only
//! monitoring reaches. Connections, headers and waiting are bounded.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};

use super::observer::{Observer, Verdict};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may take for the headers of its next request, or idle before it. Short,
/// so that whoever holds connections open keeps nobody else out for long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may last: also one whose other end does not read.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest request line and headers, in bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// After a failed accept: most often there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A running endpoint. Ends when it is dropped.
pub(super) struct HttpServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl HttpServer {
    /// Serves on a socket that is bound already.
    ///
    /// # Errors
    /// The operating system gives no thread, or no event queue.
    pub(super) fn start(listener: TcpListener, observer: Observer) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopping) = watch::channel(false);
        thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                // Dropping the runtime ends every connection.
                let node = observer.node.0;
                if let Err(error) = runtime.block_on(serve(listener, observer, stopping)) {
                    tracing::error!(node, %error, "the metrics endpoint has ended");
                }
            })?;
        Ok(Self { address, stop })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops serving; returns once the port is free.
    pub(super) async fn shutdown(&self) {
        self.stop.send_replace(true);
        self.stop.closed().await;
    }
}

async fn serve(
    listener: TcpListener,
    observer: Observer,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept_all = async {
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await;
            let slot = slot.expect("nobody closes the semaphore");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let observer = observer.clone();
                    tokio::spawn(async move {
                        serve_connection(stream, observer).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(node = observer.node.0, %error, "a scraper was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        // Also if the server was dropped.
        _ = stopping.wait_for(|is_stopping| *is_stopping) => Ok(()),
        () = accept_all => Ok(()),
    }
}

async fn serve_connection(stream: tokio::net::TcpStream, observer: Observer) {
    let service = service_fn(move |request| {
        let observer = observer.clone();
        async move { Ok::<_, Infallible>(answer(&request, &observer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // How a scraper leaves is no news to anybody.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, served).await;
}

async fn answer(request: &Request<Incoming>, observer: &Observer) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        return refusal;
    }
    match request.uri().path() {
        "/metrics" => response(StatusCode::OK, OPENMETRICS, observer.metrics().await),
        "/health" => verdict(observer.health().await),
        "/ready" => verdict(observer.ready().await),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /health and /ready",
        ),
    }
}

fn verdict(verdict: Verdict) -> Response<Full<Bytes>> {
    let (status, body) = match verdict {
        Verdict::Good(body) => (StatusCode::OK, body),
        Verdict::Bad(body) => (StatusCode::SERVICE_UNAVAILABLE, body),
    };
    response(status, JSON, format!("{body}\n"))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    response(status, TEXT, format!("{body}\n"))
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
