//! Reads under a limit.

use std::time::Instant;

use super::*;

const RATE: u64 = 1_000_000;

fn secs(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64()
}

#[tokio::test]
async fn a_limit_is_used_in_spite_of_round_trips() {
    let package = package(3_000_000);
    // One round trip for each tenth of a second's worth, one after the other, would come to a third of the limit.
    let (_server, origin) = twisted(&package, |_, reply| reply.delayed(Duration::from_millis(200))).await;
    let began = Instant::now();
    let got = read_with(&reader().paced(vec![Pacer::new(Some(RATE))]), &origin, &[0..3_000_000], Mode::Ranges).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &[0..3_000_000]);
    assert_eq!(got.wan, 3_000_000, "no byte is read twice");
    let took = secs(began.elapsed());
    assert!((2.6..4.0).contains(&took), "3 MB at 1 MB/s took {took} s");
}

#[tokio::test]
async fn a_limit_holds_for_what_was_asked_for_before_it() {
    let package = package(8_000_000);
    let (server, origin) = twisted(&package, |_, reply| reply).await;
    let pacer = Pacer::new(None);
    let reader = reader().paced(vec![pacer.clone()]);
    let (sink, mut chunks) = mpsc::channel(1);
    let wan = WanBytes::default();
    let reading = async {
        let read = reader.read(&origin, &[0..8_000_000], Mode::Ranges, &wan, &sink).await;
        drop(sink);
        read
    };
    let setting = async {
        let first = chunks.recv().await.expect("something comes");
        pacer.set(Some(4 * RATE));
        let (began, mut bytes) = (Instant::now(), 0);
        while let Some(chunk) = chunks.recv().await {
            bytes += chunk.bytes.len();
        }
        (first.bytes.len() + bytes, secs(began.elapsed()))
    };
    let (read, (bytes, took)) = tokio::join!(reading, setting);
    assert_eq!((read, bytes, server.requests().len()), (Ok(()), 8_000_000, 1), "it is one request");
    assert!(took > 1.5, "8 MB at 4 MB/s took {took} s");
}
