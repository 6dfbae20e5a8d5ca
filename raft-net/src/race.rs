//! Reaching a host by whichever of its addresses answers first.
//!
//! A name may stand for several addresses, some of which lead nowhere: an IPv6 address without a
//! route, a machine that is down. They are tried one after the other, each without waiting long
//! for the one before, and all tries go on until one succeeds (RFC 8305 in small).

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use crate::error::ConnectError;

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// How long an address has to answer before the next one is tried as well.
const HEAD_START: Duration = Duration::from_millis(100);

/// All addresses of a `host:port`, in the resolver's order, without repetition.
pub(crate) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let failed = |reason: String| ConnectError::Resolve {
        address: address.to_owned(),
        reason,
    };
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut found: Vec<SocketAddr> = Vec::new();
    for one in resolved {
        if found.len() < MAX_ADDRESSES && !found.contains(&one) {
            found.push(one);
        }
    }
    if found.is_empty() {
        return Err(failed("the name has no address".to_owned()));
    }
    Ok(found)
}

/// Makes an attempt for each address, staggered; returns the first success, or the first failure
/// once all have failed. Attempts that lost are dropped.
pub(crate) async fn race<T, F>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut waiting = addresses.iter();
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut failure = None;
    loop {
        if let Some(next) = waiting.next() {
            running.push(Box::pin(attempt(*next)));
        }
        if running.is_empty() {
            let nothing = || ConnectError::Lost("there is no address to try".to_owned());
            return Err(failure.unwrap_or_else(nothing));
        }
        let patience = match waiting.len() {
            0 => Duration::MAX,
            _ => HEAD_START,
        };
        match tokio::time::timeout(patience, first_ended(&mut running)).await {
            // Nothing yet: try the next one, too.
            Err(_) => {}
            Ok(Ok(reached)) => return Ok(reached),
            Ok(Err(error)) => {
                failure.get_or_insert(error);
            }
        }
    }
}

/// Waits until one of the attempts has ended, and takes it out.
async fn first_ended<T, F>(running: &mut Vec<Pin<Box<F>>>) -> Result<T, ConnectError>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    std::future::poll_fn(|context| {
        for index in 0..running.len() {
            if let Poll::Ready(outcome) = running[index].as_mut().poll(context) {
                drop(running.swap_remove(index));
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect()
    }

    fn refused() -> ConnectError {
        ConnectError::Lost("refused".to_owned())
    }

    #[tokio::test]
    async fn an_address_that_never_answers_does_not_hold_up_the_next() {
        let tried = addresses(3);
        let reached = race(&tried, |address| async move {
            match address.port() {
                1 => std::future::pending().await,
                2 => Err(refused()),
                _ => Ok(address.port()),
            }
        });
        assert_eq!(reached.await, Ok(3));
    }

    #[tokio::test]
    async fn a_slow_address_may_still_win() {
        let tried = addresses(2);
        let reached = race(&tried, |address| async move {
            let slow = HEAD_START * if address.port() == 1 { 2 } else { 5 };
            tokio::time::sleep(slow).await;
            Ok(address.port())
        });
        assert_eq!(reached.await, Ok(1));
    }

    #[tokio::test]
    async fn when_all_fail_the_first_failure_is_told() {
        let tried = addresses(2);
        let failed = race(&tried, |address| async move {
            match address.port() {
                1 => Err::<(), _>(refused()),
                _ => Err(ConnectError::TimedOut),
            }
        });
        assert_eq!(failed.await, Err(refused()));
        assert!(race(&[], |_| async { Ok(()) }).await.is_err());
    }

    #[tokio::test]
    async fn names_and_literals_resolve() {
        let literal = resolve("[::1]:7001").await.unwrap();
        assert_eq!(
            literal,
            [SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 7001))]
        );
        let named = resolve("localhost:7001").await.unwrap();
        assert!(named.iter().all(|one| one.ip().is_loopback()), "{named:?}");
        assert!(resolve("no-port").await.is_err());
    }
}
