//! Trying feeds for an operator: in a task of its own, since it changes nothing and may take long.

use std::sync::Arc;

use shoal_proto::id::Name;

use super::Server;
use super::deploy::feed_error;
use crate::api::command::Reply;
use crate::api::types::{FeedTest, FeedTestPlace, FeedTestRequest, FeedTestSchema};
use crate::api::{ApiError, ErrorCode};
use crate::feeds::{PlaceTrial, Reference, Resolved, Trial};

impl Server {
    /// Tries a feed with the package that is named, or without one only whether it answers.
    pub(super) fn test_feed(&self, feed: Name, request: FeedTestRequest, reply: Reply<FeedTest>) {
        let reference = match reference(&feed, request) {
            Ok(reference) => reference,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let feeds = Arc::clone(&self.feeds);
        tokio::spawn(async move {
            let trial = feeds.trial(&feed, reference.as_ref()).await;
            // The operator's client may be gone.
            let _ = reply.send(trial.map(|trial| shown(&feed, trial)).map_err(feed_error));
        });
    }
}

fn reference(feed: &Name, request: FeedTestRequest) -> Result<Option<Reference>, ApiError> {
    match request {
        FeedTestRequest { id: Some(id), version, file, platform } => {
            Reference::of_feed(feed, id, version, file, platform).map(Some).map_err(feed_error)
        }
        FeedTestRequest { id: None, version: None, file: None, platform: None } => Ok(None),
        FeedTestRequest { .. } => Err(ApiError::new(
            ErrorCode::BadRequest,
            "a `version`, `file` or `platform` is one of a package: name its id",
        )),
    }
}

fn shown(feed: &Name, trial: Trial) -> FeedTest {
    let Trial { resolved, auth, places } = trial;
    let digests = resolved.iter().flat_map(|resolved| &resolved.digests).map(ToString::to_string);
    FeedTest {
        schema: FeedTestSchema::V1,
        feed: feed.to_string(),
        package: resolved.as_ref().map(|resolved| resolved.description.clone()),
        bytes: resolved.as_ref().map(Resolved::size),
        digests: digests.collect(),
        auth: auth.to_owned(),
        works: places.iter().all(|place| place.works),
        places: places.into_iter().map(shown_place).collect(),
    }
}

fn shown_place(place: PlaceTrial) -> FeedTestPlace {
    let PlaceTrial { url, sites, works, ranges, validator, latency, rate, advice } = place;
    let latency_ms = latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
    FeedTestPlace { url, sites, works, ranges, validator, latency_ms, rate, advice }
}
