//! Reads as far as the credit of their lease goes.

use shoal_proto::wan::credit::Terms;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::transfer::credit::Habits;

const MB: u64 = 1_000_000;

/// The most that a connection holds and hands over at once.
const CHUNK_BYTES_MAX: u64 = 512 * 1024;

#[tokio::test]
async fn a_read_stops_where_its_credit_ends_and_goes_on_with_more() {
    let package = package(8 * MB as usize);
    let (server, origin) = twisted(&package, |_, reply| reply).await;
    let (told, heard) = watch::channel(MB);
    let (ask, mut asked) = mpsc::channel(8);
    let credit = LeaseCredit::new(
        Terms { first_bytes: MB, step_bytes: MB, step_max_bytes: MB },
        8 * MB,
        heard,
        ask,
        Habits::default(),
    );
    let (sink, mut chunks) = mpsc::channel::<Chunk>(4);
    let collecting = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some(chunk) = chunks.recv().await {
            bytes += chunk.bytes.len() as u64;
        }
        bytes
    });
    let (reader, renewals, wan) = (reader(), Renewals::never(&origin), WanBytes::default());
    let ranges = [0..8 * MB];
    let mut reading = Box::pin(reader.read_leased(&renewals, &credit, &ranges, Mode::Ranges, &wan, &sink));
    // As long as the origin's patience, which must not end for what is not asked for.
    for confirmed in [MB, 3 * MB] {
        told.send_replace(confirmed);
        assert!(timeout(Duration::from_millis(600), &mut reading).await.is_err(), "it waits");
        let read = wan.total();
        assert!((confirmed..=confirmed + CHUNK_BYTES_MAX).contains(&read), "{read} bytes of {confirmed}");
        let most = std::iter::from_fn(|| asked.try_recv().ok()).last();
        assert!(most.is_some_and(|bytes| bytes > confirmed), "it asks for more: {most:?}");
    }
    told.send_replace(u64::MAX);
    assert_eq!(timeout(Duration::from_secs(20), &mut reading).await.expect("it ends"), Ok(()));
    drop(reading);
    drop(sink);
    assert_eq!((collecting.await.unwrap(), wan.total(), server.requests().len()), (8 * MB, 8 * MB, 1));
}
