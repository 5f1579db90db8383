//! Where leases are read, and how that went. Most feeds tell at once; one that lends tokens may have to be asked first, in a
//! task, while the leases for it wait here. Nothing that waits outlives its reason: not its revocation, nor its node's
//! connection (WAN-ONCE). Which of several places is read from is for [`Mirrors`] to say. Signatures and tokens that end while a
//! lease is read are [made anew](super::renewals).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use shoal_proto::codec;
use shoal_proto::coordinator::Input;
use shoal_proto::id::{ContentId, DeploymentId, LeaseId, Name, NodeId, PackageIndex};
use shoal_proto::mirrors::Mirrors;
use shoal_proto::origin::{HttpOrigin, renew_after, shown_url};
use shoal_proto::time::Time;
use shoal_proto::wan::Outcome;
use shoal_proto::wire::{Fault, FaultKind, Grant, LeaseEnd, Origin, Standby, ToCoordinator, ToNode};
use tracing::{info, warn};

use super::carry::SOURCES_BYTES_MAX;
use super::{Event, ServeError, Server};
use crate::feeds::Resolved;

/// How long a feed may take to lend a token. A lease that waits is not read, and others may be granted it later.
pub(super) const FEED_WAIT: Duration = Duration::from_secs(8);

/// Which package, for nodes of which site.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) deployment: DeploymentId,
    pub(super) package: PackageIndex,
    pub(super) site: Name,
}

/// What a node is to be sent with an origin.
pub(super) enum Wanting {
    Grant(Grant),
    Standby(Standby),
}

/// A message that waits for its origin.
struct Waiting {
    to: NodeId,
    place: Place,
    wanting: Wanting,
}

/// A lease that a node reads from a feed.
pub(super) struct Reading {
    pub(super) place: Place,
    /// The place's URL as people see it, before it is signed: by it a place is known among several.
    pub(super) url: String,
    /// What other places that have the same are known by.
    others: Vec<String>,
    since: Time,
    /// When its node is told of another signature.
    pub(super) renew_at: Option<Time>,
}

/// Where leases are read, and what waits to be told.
#[derive(Default)]
pub(super) struct Origins {
    /// Messages that wait for a feed; those for one place are asked for once.
    waiting: Vec<Waiting>,
    pub(super) reading: BTreeMap<(NodeId, ContentId, LeaseId), Reading>,
    /// What deputies were told whose signatures end.
    pub(super) standing: BTreeMap<(NodeId, ContentId), Standing>,
    /// When the first signature of both is made anew, or earlier.
    pub(super) renew_at: Option<Time>,
    mirrors: Mirrors,
}

/// What a deputy was told.
pub(super) struct Standing {
    pub(super) place: Place,
    pub(super) standby: Standby,
    pub(super) renew_at: Time,
}

/// What a feed said.
pub(super) struct Told {
    place: Place,
    answer: Answer,
}

/// Where a package is read from, or why nobody can tell; none if the coordinator is the origin.
type Answer = Result<Option<Chosen>, String>;

/// One of the places that have a package.
#[derive(Clone)]
struct Chosen {
    origin: HttpOrigin,
    /// The place's URL as people see it, before it is signed.
    url: String,
    /// The URLs of other places that have the same, as people see them.
    others: Vec<String>,
    /// After what time its signature is made anew, if it has one.
    renew_after: Option<Duration>,
}

impl Origins {
    /// The moment in `after` from `now`, by when somebody looks again.
    pub(super) fn renew_in(&mut self, after: Duration, now: Time) -> Time {
        let at = now + after;
        self.renew_at = Some(self.renew_at.map_or(at, |first| first.min(at)));
        at
    }
}

impl Server {
    /// Sends a node what it wants, once its origin is known.
    pub(super) async fn send_with_origin(
        &mut self,
        to: NodeId,
        place: Place,
        wanting: Wanting,
    ) -> Result<(), ServeError> {
        if let Wanting::Standby(standby) = &wanting {
            self.drop_standby(to, standby.content);
        }
        let asking = self.origins.waiting.iter().any(|waiting| waiting.place == place);
        let at_once = if asking { None } else { self.origin_at_once(&place) };
        match at_once {
            Some(answer) => self.send_read(to, place, wanting, answer).await,
            None => {
                self.origins.waiting.push(Waiting { to, place, wanting });
                Ok(())
            }
        }
    }

    /// What the feed of a package tells without being asked; if it has to be, a task asks, and [`Self::on_origin`] goes on.
    fn origin_at_once(&self, place: &Place) -> Option<Answer> {
        let resolved = match self.resolved(place) {
            Ok(resolved) => resolved,
            Err(cause) => return Some(Err(cause)),
        };
        let Some(unsigned) = self.choose(&resolved, &place.site) else { return Some(Ok(None)) };
        let origin = unsigned.origin.clone();
        let chosen = move |origin| Some(Chosen { origin, ..unsigned });
        if let Some(origin) = self.feeds.authorize(&resolved, origin.clone()).now_or_never() {
            return Some(origin.map(chosen).map_err(|error| error.to_string()));
        }
        let (feeds, events, place) = (self.feeds.clone(), self.events_sender.clone(), place.clone());
        tokio::spawn(async move {
            let asked = tokio::time::timeout(FEED_WAIT, feeds.authorize(&resolved, origin)).await;
            let slow =
                format!("the feed of {} does not lend a token in {} s", resolved.description, FEED_WAIT.as_secs());
            let answer = asked.map_or(Err(slow), |origin| origin.map(chosen).map_err(|error| error.to_string()));
            // The driver is gone only when the process ends.
            let _ = events.send(Event::Origin(Told { place, answer })).await;
        });
        None
    }

    /// The place that nodes of `site` read a package from; none if that is the coordinator.
    fn choose(&self, resolved: &Resolved, site: &Name) -> Option<Chosen> {
        let places = resolved.places(Some(site));
        let shown: Vec<String> = places.iter().map(|place| shown_url(&place.url)).collect();
        let names: Vec<&str> = shown.iter().map(String::as_str).collect();
        let chosen = self.origins.mirrors.choose(site, &names, self.now().time);
        let place = places.get(chosen)?;
        let origin = (*place).clone();
        let mut others = shown;
        let url = others.remove(chosen);
        let renew_after = self.feeds.signed_for(resolved).map(renew_after);
        Some(Chosen { origin, url, others, renew_after })
    }

    pub(super) async fn on_origin(&mut self, told: Told) -> Result<(), ServeError> {
        let all = std::mem::take(&mut self.origins.waiting);
        let (ready, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|waiting| waiting.place == told.place);
        self.origins.waiting = rest;
        for Waiting { to, place, wanting } in ready {
            self.send_read(to, place, wanting, told.answer.clone()).await?;
        }
        Ok(())
    }

    async fn send_read(
        &mut self,
        to: NodeId,
        place: Place,
        wanting: Wanting,
        answer: Answer,
    ) -> Result<(), ServeError> {
        match (wanting, answer) {
            (Wanting::Grant(mut grant), Ok(chosen)) => {
                // Without one it is a folder: the coordinator serves it.
                if let Some(Chosen { origin, url, others, renew_after }) = chosen {
                    let since = self.now().time;
                    let renew_at = renew_after.map(|after| self.origins.renew_in(after, since));
                    let reading = Reading { place, url, others, since, renew_at };
                    self.origins.reading.insert((to, grant.content, grant.lease), reading);
                    grant.origin = Origin::Http(origin);
                }
                self.send(to, ToNode::Grant(grant)).await
            }
            (Wanting::Grant(grant), Err(cause)) => {
                let fault = Some(Fault { kind: FaultKind::Passing, cause });
                self.end_unsent(to, grant.content, grant.lease, Outcome::Failed { retryable: true }, fault);
                Ok(())
            }
            (Wanting::Standby(mut standby), Ok(Some(Chosen { origin, renew_after, .. }))) => {
                if let Some(after) = renew_after {
                    let renew_at = self.origins.renew_in(after, self.now().time);
                    let standing = Standing { place, standby: standby.clone(), renew_at };
                    self.origins.standing.insert((to, standby.content), standing);
                }
                standby.origin = Origin::Http(origin);
                self.send(to, ToNode::Standby(standby)).await
            }
            // A folder is served by the coordinator: nobody reads it while that is away.
            (Wanting::Standby(_), Ok(None)) => Ok(()),
            (Wanting::Standby(standby), Err(cause)) => {
                let content = standby.content.short();
                warn!(%content, cause, "nobody can read this package while the coordinator is away");
                Ok(())
            }
        }
    }

    /// Takes back a lease that its node was never told of; whether it was one.
    pub(super) fn revoke_unsent(&mut self, to: NodeId, content: ContentId, lease: LeaseId) -> bool {
        let before = self.origins.waiting.len();
        self.origins.waiting.retain(|waiting| !waiting.is_grant(to, content, lease));
        let unsent = self.origins.waiting.len() < before;
        if unsent {
            self.end_unsent(to, content, lease, Outcome::Revoked, None);
        }
        unsent
    }

    /// Forgets an earlier word about who reads while the coordinator is away: the later one counts.
    pub(super) fn drop_standby(&mut self, to: NodeId, content: ContentId) {
        self.origins.waiting.retain(|waiting| !waiting.is_standby(to, content));
        self.origins.standing.remove(&(to, content));
    }

    /// A node's connection ended: what waits for it belongs to that connection.
    pub(super) fn drop_unsent(&mut self, node: NodeId) {
        self.origins.waiting.retain(|waiting| waiting.to != node);
        self.origins.reading.retain(|(reader, ..), _| *reader != node);
        self.origins.standing.retain(|(deputy, _), _| *deputy != node);
    }

    /// A node's read ended: what that says about the place that it read from.
    pub(super) fn note_read(&mut self, from: NodeId, end: &mut LeaseEnd) {
        let Some(reading) = self.origins.reading.remove(&(from, end.content, end.lease)) else { return };
        let (now, site) = (self.now().time, &reading.place.site);
        let Some(fault) = &mut end.fault else {
            if end.outcome == Outcome::Done {
                self.origins.mirrors.worked(site, &reading.url);
            }
            return;
        };
        if fault.kind == FaultKind::Denied
            && let Ok(resolved) = self.resolved(&reading.place)
        {
            self.feeds.denied(&resolved);
            // The end of a signature is nobody's fault: the rest goes back as if it had been asked for. A signature that is used
            // for several leases has half of its life left.
            if self.feeds.signed_for(&resolved).is_some_and(|life| now.since(reading.since) >= life / 2) {
                info!(%site, url = reading.url, "a signed URL ended under way: the rest is read with another");
                (end.outcome, end.fault) = (Outcome::Revoked, None);
                return;
            }
        }
        let several = !reading.others.is_empty();
        fault.kind = self.origins.mirrors.failed(site, &reading.url, fault.kind, &reading.others, now);
        if several && matches!(fault.kind, FaultKind::Changed | FaultKind::WrongBytes) {
            fault.cause += "; no other place has it as it was";
        } else if let Some(rest) = self.origins.mirrors.rests(site, &reading.url, now).filter(|_| several) {
            let (url, rest_s) = (&reading.url, rest.as_secs());
            warn!(%site, url, rest_s, cause = fault.cause, "a mirror failed: the next one is read for a while");
            // What this node cannot have at one place, whatever it does, it may have at the next.
            if let Outcome::Failed { retryable } = &mut end.outcome {
                *retryable = true;
            }
        }
    }

    fn end_unsent(&mut self, from: NodeId, content: ContentId, lease: LeaseId, outcome: Outcome, fault: Option<Fault>) {
        let end = LeaseEnd { content, lease, read_bytes: 0, landed: Vec::new(), outcome, fault };
        self.handle(Input::Node { from, message: ToCoordinator::LeaseEnded { end, begun: Vec::new() } });
    }

    pub(super) fn resolved(&self, place: &Place) -> Result<Resolved, String> {
        let created = self.core.created(place.deployment).ok_or("the deployment is gone")?;
        let mut sources: Vec<Resolved> =
            codec::decode(&created.sources, SOURCES_BYTES_MAX).map_err(|error| error.to_string())?;
        let index = place.package.index();
        if index >= sources.len() {
            return Err("the deployment does not say where the package is".to_owned());
        }
        Ok(sources.swap_remove(index))
    }
}

impl Waiting {
    fn is_grant(&self, to: NodeId, content: ContentId, lease: LeaseId) -> bool {
        let of = |grant: &Grant| grant.content == content && grant.lease == lease;
        self.to == to && matches!(&self.wanting, Wanting::Grant(grant) if of(grant))
    }

    fn is_standby(&self, to: NodeId, content: ContentId) -> bool {
        self.to == to && matches!(&self.wanting, Wanting::Standby(standby) if standby.content == content)
    }
}
