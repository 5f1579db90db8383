//! Proofs that end while a package is read.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

use super::*;

/// A server that lets in who comes with one of the tokens from the one numbered `good` on.
async fn guarded(package: &[u8], good: Arc<AtomicU32>) -> (Server, HttpOrigin) {
    twisted(package, move |seen, reply| {
        let number = seen.headers["authorization"].strip_prefix("Bearer ").and_then(|token| token.parse::<u32>().ok());
        match number.is_some_and(|number| number >= good.load(Ordering::SeqCst)) {
            true => reply,
            false => Reply::new(403),
        }
    })
    .await
}

fn with_token(origin: &HttpOrigin, number: u32) -> HttpOrigin {
    HttpOrigin { headers: vec![("Authorization".into(), format!("Bearer {number}"))], ..origin.clone() }
}

/// What came of reading all, and how often another token was asked for; `answer` gives one for each question.
async fn read_all(
    origin: HttpOrigin,
    ranges: &[Range<u64>],
    mode: Mode,
    answer: impl Fn(u32) -> Option<HttpOrigin>,
) -> (Got, u32) {
    let (told, renewed) = watch::channel(None);
    let (ask, mut asks) = mpsc::channel(1);
    let (sink, mut chunks) = mpsc::channel(1);
    let (wan, size, reader) = (WanBytes::default(), origin.size, reader());
    let renewals = Renewals::new(origin, renewed, Some(ask));
    let reading = async {
        let result = reader.read_leased(&renewals, &LeaseCredit::unlimited(), ranges, mode, &wan, &sink).await;
        drop((sink, renewals));
        result
    };
    let collecting = async {
        let mut bytes = vec![None; size as usize];
        while let Some(chunk) = chunks.recv().await {
            for (at, byte) in (chunk.offset as usize..).zip(chunk.bytes) {
                assert_eq!(bytes[at].replace(byte), None, "byte {at} came twice");
            }
        }
        bytes
    };
    let answering = async {
        let mut asked = 0;
        while asks.recv().await.is_some() {
            asked += 1;
            if let Some(origin) = answer(asked) {
                told.send_replace(Some(Arc::new(origin)));
            }
        }
        asked
    };
    let (result, bytes, asked) = tokio::join!(reading, collecting, answering);
    (Got { result, bytes, wan: wan.total() }, asked)
}

#[tokio::test]
async fn another_token_lets_a_read_go_on_where_it_was() {
    let package = package(3_000_000);
    for mode in [Mode::Ranges, Mode::WholeRest] {
        let good = Arc::<AtomicU32>::default();
        let (_server, origin) = guarded(&package, Arc::clone(&good)).await;
        // Every range is refused when it begins: all of them are content with one answer.
        good.store(1, Ordering::SeqCst);
        let ranges = [0..1_000_000, 1_010_000..2_000_000, 2_010_000..3_000_000];
        let answer = |_| Some(with_token(&origin, 1));
        let (got, asked) = read_all(with_token(&origin, 0), &ranges, mode, answer).await;
        assert_eq!((&got.result, asked), (&Ok(()), 1), "{mode:?}");
        got.holds(&package, &ranges);
        if mode == Mode::Ranges {
            assert_eq!(got.wan, 2_980_000, "no byte twice");
        }
    }
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_costs_no_byte() {
    let package = package(3_000_000);
    let good = Arc::<AtomicU32>::default();
    let held = package.clone();
    let counted = Arc::clone(&good);
    // Bodies break off all the time, so that what is read needs many requests; each that is let in ends the token.
    let server = Server::start(move |seen| {
        let number = seen.headers["authorization"].strip_prefix("Bearer ").and_then(|token| token.parse::<u32>().ok());
        match number.is_some_and(|number| number >= counted.load(Ordering::SeqCst)) {
            true => {
                counted.fetch_add(1, Ordering::SeqCst);
                Reply::good(&held, seen).then(300_000, Then::Close)
            }
            false => Reply::new(401),
        }
    })
    .await;
    let origin = origin(&server, &package);
    let next = Arc::clone(&good);
    let answer = |_| Some(with_token(&origin, next.load(Ordering::SeqCst)));
    let (got, asked) = read_all(with_token(&origin, 0), &[0..3_000_000], Mode::Ranges, answer).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &[0..3_000_000]);
    assert_eq!(got.wan, 3_000_000, "no byte twice");
    assert!(asked >= 5, "{asked} tokens were asked for");
}

#[tokio::test]
async fn what_is_refused_again_is_told_as_it_is() {
    let package = package(100_000);
    type Answer = fn(&HttpOrigin, u32) -> Option<HttpOrigin>;
    let cases: [(Answer, &str); 3] = [
        (|origin, asked| Some(with_token(origin, asked)), "other tokens are refused as well"),
        (|origin, _| Some(with_token(origin, 0)), "there is no other token"),
        (|_, _| None, "nobody answers"),
    ];
    for (answer, why) in cases {
        let (server, origin) = guarded(&package, Arc::new(AtomicU32::new(u32::MAX))).await;
        let (got, asked) =
            read_all(with_token(&origin, 0), &[0..100_000], Mode::Ranges, |asked| answer(&origin, asked)).await;
        assert!((1..=4).contains(&asked) && server.requests().len() <= 4, "{why}: {asked}");
        assert!(matches!(got.error(), OriginError::Forbidden { .. }), "{why}");
    }
}
