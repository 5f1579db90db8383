//! Signatures and tokens made anew for who reads with them: some time before they end, or when a node was refused.
//!
//! Only a lease that a node has on its present connection is renewed (WAN-ONCE), at the place where it is read: its ranges are
//! of the file there.

use futures::FutureExt;
use shoal_proto::id::{ContentId, LeaseId, NodeId};
use shoal_proto::origin::{HttpOrigin, renew_after, shown_url};
use shoal_proto::wire::ToNode;
use tracing::{info, warn};

use super::origins::{FEED_WAIT, Standing, Wanting};
use super::{Event, ServeError, Server};

/// Whose lease, of what, and which.
pub(super) type Lease = (NodeId, ContentId, LeaseId);

/// What a feed gave for a lease that is read.
pub(super) struct Renewal {
    pub(super) lease: Lease,
    pub(super) origin: HttpOrigin,
}

impl Server {
    /// A node was refused with what came with its lease: whatever was lent for it is lent anew.
    pub(super) async fn on_denied(&mut self, lease: Lease) -> Result<(), ServeError> {
        let Some(reading) = self.origins.reading.get(&lease) else { return Ok(()) };
        info!(
            node = self.node_name(lease.0),
            url = reading.url,
            "a node was refused under way: it is told how to read on"
        );
        if let Ok(resolved) = self.resolved(&reading.place) {
            self.feeds.denied(&resolved);
        }
        self.renew(lease).await
    }

    /// Tells those of another signature whose own ends soon.
    pub(super) async fn renew_due(&mut self) -> Result<(), ServeError> {
        let now = self.now().time;
        if self.origins.renew_at.is_none_or(|at| now < at) {
            return Ok(());
        }
        let due = self.origins.reading.iter().filter(|(_, reading)| reading.renew_at.is_some_and(|at| at <= now));
        let leases: Vec<Lease> = due.map(|(lease, _)| *lease).collect();
        let due = self.origins.standing.iter().filter(|(_, standing)| standing.renew_at <= now);
        let standing: Vec<_> = due.map(|(key, _)| *key).collect();
        for key in standing {
            if let Some(Standing { place, standby, .. }) = self.origins.standing.remove(&key) {
                self.send_with_origin(key.0, place, Wanting::Standby(standby)).await?;
            }
        }
        for lease in leases {
            self.renew(lease).await?;
        }
        let leases = self.origins.reading.values().filter_map(|reading| reading.renew_at);
        self.origins.renew_at = leases.chain(self.origins.standing.values().map(|standing| standing.renew_at)).min();
        Ok(())
    }

    async fn renew(&mut self, lease: Lease) -> Result<(), ServeError> {
        let now = self.now().time;
        let Some(reading) = self.origins.reading.get(&lease) else { return Ok(()) };
        let (resolved, url) = (self.resolved(&reading.place), reading.url.clone());
        let site = reading.place.site.clone();
        let place = resolved.ok().and_then(|resolved| {
            let places = resolved.places(Some(&site));
            let place = places.into_iter().find(|place| shown_url(&place.url) == url)?.clone();
            Some((resolved, place))
        });
        let after = place.as_ref().and_then(|(resolved, _)| self.feeds.signed_for(resolved)).map(renew_after);
        let renew_at = after.map(|after| self.origins.renew_in(after, now));
        if let Some(reading) = self.origins.reading.get_mut(&lease) {
            reading.renew_at = renew_at;
        }
        let Some((resolved, place)) = place else { return Ok(()) };
        match self.feeds.authorize(&resolved, place.clone()).now_or_never() {
            Some(Ok(origin)) => return self.on_renewal(Renewal { lease, origin }).await,
            Some(Err(error)) => warn!(url, %error, "no other signature or token can be had for a lease that is read"),
            None => {
                let (feeds, events) = (self.feeds.clone(), self.events_sender.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(FEED_WAIT, feeds.authorize(&resolved, place)).await {
                        // The driver is gone only when the process ends.
                        Ok(Ok(origin)) => drop(events.send(Event::Renewal(Box::new(Renewal { lease, origin }))).await),
                        Ok(Err(error)) => warn!(url, %error, "no other token can be had for a lease that is read"),
                        Err(_) => warn!(url, wait_s = FEED_WAIT.as_secs(), "its feed lends no token in time"),
                    }
                });
            }
        }
        Ok(())
    }

    pub(super) async fn on_renewal(&mut self, renewal: Renewal) -> Result<(), ServeError> {
        let Renewal { lease, origin } = renewal;
        if !self.origins.reading.contains_key(&lease) {
            return Ok(());
        }
        let (to, content, lease) = lease;
        self.send(to, ToNode::Renewed { content, lease, origin }).await
    }
}
