//! Waits until a service answers. Each try has a deadline of its own, so that a service that accepts and hangs is asked
//! again; the error tells what the last try met.

use std::error::Error as _;
use std::time::Duration;

use shoal_proto::manifest::Probe;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The first wait between two tries; it doubles up to [`WAIT_MAX`].
const WAIT_MIN: Duration = Duration::from_millis(500);

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How long one try may take.
const TRY_MAX: Duration = Duration::from_secs(5);

/// Why a check failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CheckError {
    /// It was not up in time.
    #[error("{target} was not up within {}: {cause}", seconds(*within))]
    NotUp {
        /// What was asked.
        target: String,
        /// How long.
        within: Duration,
        /// What the last try met.
        cause: String,
    },
    /// It cannot be asked at all.
    #[error("cannot check {target}: {cause}")]
    Unusable {
        /// What was to be asked.
        target: String,
        /// Why not.
        cause: String,
    },
}

/// Asks until the service is up, and says what it answered.
pub(super) async fn wait_until_up(probe: &Probe, within: Duration) -> Result<String, CheckError> {
    let started = Instant::now();
    let deadline = started + within;
    let asker = Asker::new(probe)?;
    let mut wait = WAIT_MIN;
    let mut last = "no answer".to_owned();
    loop {
        let try_deadline = deadline.min(Instant::now() + TRY_MAX);
        match timeout_at(try_deadline, asker.ask()).await {
            Ok(Ok(said)) => {
                return Ok(format!("{} {said} after {}", asker.target(), seconds(started.elapsed())));
            }
            Ok(Err(cause)) => last = cause,
            // Cut short by the deadline, a try says less than the one before it.
            Err(_) if try_deadline < deadline => last = format!("no answer within {}", seconds(TRY_MAX)),
            Err(_) => {}
        }
        let next = Instant::now() + wait;
        if next >= deadline {
            let target = asker.target().to_owned();
            return Err(CheckError::NotUp { target, within, cause: last });
        }
        sleep_until(next).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// One way to ask.
enum Asker<'a> {
    Http { client: reqwest::Client, url: &'a str, expect: u16 },
    Tcp { address: &'a str },
}

impl<'a> Asker<'a> {
    fn new(probe: &'a Probe) -> Result<Self, CheckError> {
        match probe {
            Probe::Tcp { address } => Ok(Self::Tcp { address }),
            Probe::Http { url, expect } => {
                let unusable = |cause: String| CheckError::Unusable { target: url.clone(), cause };
                reqwest::Url::parse(url).map_err(|error| unusable(error.to_string()))?;
                // The service itself is asked, not a proxy and not where it redirects to. A kept connection would tell
                // of the process that was there before.
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .redirect(reqwest::redirect::Policy::none())
                    .pool_max_idle_per_host(0);
                // Only https needs CA certificates; without it, a machine that has none can be checked as well.
                let client = if url.starts_with("https://") { client } else { client.tls_certs_only([]) };
                let client = client.build().map_err(|error| unusable(error.to_string()))?;
                Ok(Self::Http { client, url, expect: *expect })
            }
        }
    }

    fn target(&self) -> &str {
        match self {
            Self::Http { url, .. } => url,
            Self::Tcp { address } => address,
        }
    }

    async fn ask(&self) -> Result<String, String> {
        match self {
            Self::Http { client, url, expect } => {
                let response = client.get(*url).send().await.map_err(|error| innermost(&error))?;
                match response.status().as_u16() {
                    status if status == *expect => Ok(format!("answered {status}")),
                    status => Err(format!("it answered {status}, not {expect}")),
                }
            }
            Self::Tcp { address } => TcpStream::connect(address)
                .await
                .map(|_| "accepts connections".to_owned())
                .map_err(|error| error.to_string()),
        }
    }
}

/// The cause at the bottom: `connection refused` rather than the layers above it.
fn innermost(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = source.to_string();
        next = source.source();
    }
    text
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection after the other with the given statuses, then no more.
    async fn answers(statuses: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for status in statuses {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(socket.read(&mut request).await.unwrap() > 0);
                let reply = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nLocation: /login\r\n\r\n");
                socket.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        url
    }

    async fn unused_address() -> String {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_service_is_asked_until_it_is_up() {
        let url = answers(&["503", "200"]).await;
        let said =
            wait_until_up(&Probe::Http { url: url.clone(), expect: 200 }, Duration::from_secs(10)).await.unwrap();
        assert!(said.starts_with(&format!("{url} answered 200 after ")), "{said}");
        let redirects = answers(&["302"]).await;
        let probe = Probe::Http { url: redirects, expect: 302 };
        assert!(wait_until_up(&probe, Duration::from_secs(10)).await.is_ok(), "a redirect is an answer like others");
    }

    #[tokio::test]
    async fn the_error_tells_what_the_last_try_met() {
        let url = answers(&["500", "500", "500"]).await;
        let within = Duration::from_millis(700);
        let error = wait_until_up(&Probe::Http { url: url.clone(), expect: 200 }, within).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{url} was not up within 0.7 s: it answered 500, not 200"));

        let address = unused_address().await;
        let error = wait_until_up(&Probe::Tcp { address: address.clone() }, within).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let probe = Probe::Http { url: format!("http://{address}/"), expect: 200 };
        let error = wait_until_up(&probe, within).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let error = wait_until_up(&Probe::Http { url: "nonsense".into(), expect: 200 }, within).await.unwrap_err();
        assert!(matches!(error, CheckError::Unusable { .. }));
    }

    #[tokio::test]
    async fn a_port_that_accepts_is_up_and_one_that_hangs_is_not_http() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let within = Duration::from_millis(300);
        assert!(wait_until_up(&Probe::Tcp { address: address.clone() }, within).await.is_ok());
        let probe = Probe::Http { url: format!("http://{address}/"), expect: 200 };
        let error = wait_until_up(&probe, within).await.unwrap_err();
        assert!(matches!(error, CheckError::NotUp { ref cause, .. } if cause == "no answer"), "{error}");
    }
}
