//! Tries a feed: finds a package as a deployment would, reads a little of it at each place that has it as a node would, and says
//! in one sentence what an operator should know or change there.
//!
//! What goes wrong at a place is part of the answer. Nothing is kept, and nothing but the places' own servers hears of it.

use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_node::origin::{Chunk, Mode, OriginError, OriginReader, Target, WanBytes};
use shoal_proto::id::Name;
use shoal_proto::limits::{FEED_TRIAL_ANSWER_WAIT, FEED_TRIAL_BYTES, FEED_TRIAL_READ_WAIT};
use shoal_proto::origin::{HttpOrigin, Metadata, shown_url};
use tokio::sync::mpsc;

use super::asked::{Asked, LeftOut};
use super::{FeedError, Feeds, Place, Reference, Resolved};
use crate::config::feed::FeedPlace;

/// Where the range that is read begins, at most: who ignores ranges sends what is before it, too.
const RANGE_START_MAX: u64 = 64 * 1024;

/// How a feed did.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What was found; none if no package was named.
    pub resolved: Option<Resolved>,
    /// What is proved to the feed, for people.
    pub auth: &'static str,
    /// The feed's own place, what it calls its equals, and its mirrors.
    pub places: Vec<PlaceTrial>,
}

/// How one place did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaceTrial {
    /// Where, as people may see it.
    pub url: String,
    /// The sites that read there first; none for those without a mirror.
    pub sites: Vec<String>,
    /// Whether nodes can read there, as far as the coordinator can tell.
    pub works: bool,
    /// Whether it answers ranges, if that was found out.
    pub ranges: Option<bool>,
    /// By what it is known to be unchanged.
    pub validator: Option<String>,
    /// How long its first answer took.
    pub latency: Option<Duration>,
    /// Bytes a second of a short read.
    pub rate: Option<u64>,
    /// What to know or to change.
    pub advice: String,
}

/// What a place answered to the question for the package's first byte.
struct Said {
    metadata: Metadata,
    /// Its validator is one that does not promise the same bytes.
    weak_etag: bool,
    latency: Duration,
}

impl Feeds {
    /// Tries a feed with a package, or without one only whether it answers.
    ///
    /// # Errors
    /// Those of [`Feeds::resolve`].
    pub async fn trial(&self, feed: &Name, reference: Option<&Reference>) -> Result<Trial, FeedError> {
        let asked = self.ask(feed)?;
        let auth = asked.shown_auth();
        let Some(reference) = reference else {
            return Ok(Trial { resolved: None, auth, places: knock(&asked).await });
        };
        let (resolved, left_out) = self.resolve_more(reference).await?;
        let mut places = Vec::new();
        match &resolved.place {
            Place::Folder(file) => places.push(PlaceTrial {
                url: file.path.display().to_string(),
                works: true,
                advice: "nothing is wrong with it: the coordinator is the origin, and nodes read it from there"
                    .to_owned(),
                ..PlaceTrial::default()
            }),
            Place::Http { origin, mirrors, equivalents } => {
                for own in [origin].into_iter().chain(equivalents) {
                    places.push(self.try_place(&asked, &resolved, own).await);
                }
                for mirror in mirrors {
                    let tried = self.try_place(&asked, &resolved, &mirror.origin).await;
                    places.push(PlaceTrial { sites: names(&mirror.sites), ..tried }.of_mirror());
                }
            }
        }
        let not_used = |LeftOut { url, sites, cause }| PlaceTrial {
            url,
            sites: names(&sites),
            advice: format!("it is not used for this package, and its sites read the next place: {cause}"),
            ..PlaceTrial::default()
        };
        places.extend(left_out.into_iter().map(not_used));
        Ok(Trial { resolved: Some(resolved), auth, places })
    }

    async fn try_place(&self, asked: &Asked<'_>, resolved: &Resolved, place: &HttpOrigin) -> PlaceTrial {
        let tried = PlaceTrial { url: shown_url(&place.url), ..PlaceTrial::default() };
        let fails = |cause: &dyn std::fmt::Display| format!("nodes cannot read here: {cause}");
        let origin = match self.authorize(resolved, place.clone()).await {
            Ok(origin) => origin,
            Err(error) => return PlaceTrial { advice: fails(&error), ..tried },
        };
        let said = match first_answer(&self.reader, &origin).await {
            Ok(said) => said,
            Err(cause) => return PlaceTrial { advice: fails(&cause), ..tried },
        };
        let read = read(&self.reader, &origin).await;
        PlaceTrial {
            works: read.is_ok(),
            ranges: Some(said.metadata.ranges),
            validator: said.metadata.etag.clone().or_else(|| said.metadata.last_modified.clone()),
            latency: Some(said.latency),
            advice: match &read {
                Err(cause) => fails(cause),
                Ok(_) => advice(&said, asked.bares_secret(&place.url)).to_owned(),
            },
            rate: read.ok().flatten(),
            ..tried
        }
    }
}

impl PlaceTrial {
    /// A mirror may be where only its sites reach it.
    fn of_mirror(self) -> Self {
        match self.latency {
            None => {
                Self { advice: format!("{}; where its sites reach it all the same, they read it", self.advice), ..self }
            }
            Some(_) => self,
        }
    }
}

fn names(sites: &[crate::config::SitePattern]) -> Vec<String> {
    sites.iter().map(ToString::to_string).collect()
}

/// Whether a feed and its mirrors answer at all. Where packages are is for a package to show.
async fn knock(asked: &Asked<'_>) -> Vec<PlaceTrial> {
    let remote = match &asked.config.place {
        FeedPlace::Remote(remote) => remote,
        FeedPlace::Folder(path) => {
            let works = path.is_dir();
            let advice =
                if works { "name a file in it to see whether it can be read" } else { "there is no such folder" };
            let url = path.display().to_string();
            return vec![PlaceTrial { url, works, advice: advice.to_owned(), ..PlaceTrial::default() }];
        }
    };
    let own = (&remote.url, Vec::new());
    let mirrors = remote.mirrors.iter().map(|mirror| (&mirror.url, names(&mirror.sites)));
    let mut places = Vec::new();
    for (url, sites) in [own].into_iter().chain(mirrors) {
        let door = (asked.config.kind.door)(url);
        let headers = asked.headers(&door);
        let begun = Instant::now();
        let probe = asked.reader.probe(Target { url: &door, headers: &headers, ca_pem: asked.ca_pem(&door) });
        let said = within(probe).await;
        let answers = match &said {
            // Many show no root, or not to everybody, and all the same what is below it.
            Ok(_) | Err(OriginError::NotFound { .. } | OriginError::Forbidden { .. } | OriginError::Status { .. }) => {
                true
            }
            // A registry that lends tokens for a repository is well.
            Err(OriginError::Unauthorized { challenges, .. }) => challenges.iter().any(|one| one.starts_with("Bearer")),
            Err(_) => false,
        };
        let advice = match said {
            Err(cause) if !answers => format!("it does not answer as it should: {cause}"),
            _ => "it answers: name a package to see whether it can be read".to_owned(),
        };
        let latency = answers.then(|| begun.elapsed());
        places.push(PlaceTrial {
            url: shown_url(&door),
            sites,
            works: answers,
            latency,
            advice,
            ..PlaceTrial::default()
        });
    }
    places
}

async fn first_answer(reader: &OriginReader, origin: &HttpOrigin) -> Result<Said, OriginError> {
    let begun = Instant::now();
    let (metadata, headers) = within(reader.probe_more(Target::of(origin))).await?;
    let weak_etag = metadata.etag.is_none() && headers.find("etag").is_some();
    let said = Said { metadata, weak_etag, latency: begun.elapsed() };
    match origin.change(&said.metadata) {
        Some(change) => Err(OriginError::Changed { url: shown_url(&origin.url), change }),
        None => Ok(said),
    }
}

/// What a question comes to, if that takes no longer than an operator waits.
async fn within<T>(question: impl Future<Output = Result<T, OriginError>>) -> Result<T, OriginError> {
    let slow = || OriginError::Client(format!("there was no answer in {} s", FEED_TRIAL_ANSWER_WAIT.as_secs()));
    tokio::time::timeout(FEED_TRIAL_ANSWER_WAIT, question).await.unwrap_or_else(|_| Err(slow()))
}

/// Reads a range; how fast that went, in bytes a second. An empty package has no rate.
async fn read(reader: &OriginReader, origin: &HttpOrigin) -> Result<Option<u64>, OriginError> {
    // Not from the first byte on: many who know no ranges get that right.
    let start = (origin.size / 2).min(RANGE_START_MAX);
    let range = start..origin.size.min(start + FEED_TRIAL_BYTES);
    if range.is_empty() {
        return Ok(None);
    }
    match read_as(reader, origin, &range, Mode::Ranges).await {
        Err(OriginError::IgnoresRanges { .. }) => read_as(reader, origin, &range, Mode::WholeRest).await,
        read => read,
    }
}

async fn read_as(
    reader: &OriginReader,
    origin: &HttpOrigin,
    range: &Range<u64>,
    mode: Mode,
) -> Result<Option<u64>, OriginError> {
    let (sink, mut chunks) = mpsc::channel::<Chunk>(4);
    let (wan, begun) = (WanBytes::default(), Instant::now());
    let reading = async {
        let read = reader.read(origin, std::slice::from_ref(range), mode, &wan, &sink).await;
        drop(sink);
        read
    };
    let all = async { tokio::join!(reading, async { while chunks.recv().await.is_some() {} }).0 };
    match tokio::time::timeout(FEED_TRIAL_READ_WAIT, all).await {
        Ok(read) => read?,
        // Slow is an answer; silence is none.
        Err(_) if wan.total() > 0 => {}
        Err(_) => {
            return Err(OriginError::Stalled { url: shown_url(&origin.url), silence: FEED_TRIAL_READ_WAIT });
        }
    }
    Ok(Some((wan.total() as f64 / begun.elapsed().as_secs_f64().max(1e-6)) as u64))
}

/// The sentence for an operator about a place where nodes can read.
fn advice(said: &Said, bares_secret: bool) -> &'static str {
    let Metadata { etag, last_modified, ranges, .. } = &said.metadata;
    match (etag, last_modified) {
        _ if !ranges => {
            "it ignores ranges, so that one node of a site reads all of a package in one go, and again if that breaks: put a \
             server or proxy before it that answers `Range` with 206"
        }
        (None, _) if said.weak_etag => {
            "its `ETag` is a weak one, so that a change under way is seen only by its bytes: have it send a strong one (nginx: \
             no gzip for packages)"
        }
        (None, None) => {
            "it gives no validator, so that a change is seen only by its bytes, and the coordinator reads the package anew for \
             each deployment: have it send a strong `ETag`"
        }
        (None, Some(_)) => {
            "it gives no `ETag`, so that a change under way is seen only by its bytes: have it send a strong one"
        }
        (Some(_), _) if bares_secret => {
            "its password or token crosses the network in the clear: give the feed an https:// URL"
        }
        (Some(_), _) => "nothing is wrong with it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_says_what_to_change() {
        let good = Metadata { size: Some(1), etag: Some("\"a\"".into()), last_modified: None, ranges: true };
        let dated = Metadata { etag: None, last_modified: Some("Mon".into()), ..good };
        let bare = Metadata { etag: None, ..good.clone() };
        let whole = Metadata { ranges: false, ..good.clone() };
        let table = [
            (&good, false, false, "nothing is wrong"),
            (&good, false, true, "in the clear"),
            (&dated, false, false, "no `ETag`"),
            (&bare, false, false, "no validator"),
            (&bare, true, true, "a weak one"),
            (&whole, false, true, "answers `Range` with 206"),
        ];
        for (metadata, weak_etag, bares_secret, wanted) in table {
            let said = Said { metadata: metadata.clone(), weak_etag, latency: Duration::ZERO };
            let found = advice(&said, bares_secret);
            assert!(found.contains(wanted), "{found}\nis not\n{wanted}");
        }
    }
}
