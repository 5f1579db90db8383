//! Carries out what the core wants done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId, LeaseId, NodeId, PackageId, RecipeId};
use shoal_proto::limits::INVENTORY_PACKAGES_MAX;
use shoal_proto::manifest::Manifest;
use shoal_proto::node::{Input, Opened, Output, What};
use shoal_proto::origin::HttpOrigin;
use shoal_proto::outputs::Named;
use shoal_proto::wan::{self, Lacking};
use shoal_proto::wire::{Frame, Grant, Inventory, LeaseEnd, Neighbour, Origin, StepRun, ToCoordinator};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, AgentError, Event, Reading};
use crate::disk::free_bytes;
use crate::net::Multiaddr;
use crate::runner::{Surroundings, run_step};
use crate::steps::PackageFile;
use crate::store::{self, Content, Held, Holding, Kind, Store};
use crate::transfer::fetch::{Fetcher, Job};
use crate::transfer::read::Told;
use crate::transfer::serve::Verdict;

impl Agent {
    pub(super) async fn carry_out(&mut self, output: Output) -> Result<(), AgentError> {
        match output {
            Output::Coordinator(message) => {
                self.send(self.membership.join.coordinator, &Frame::ToCoordinator(message)).await?;
            }
            Output::Welcomed { epoch, site } => {
                info!(%site, epoch = epoch.0, "the coordinator welcomes this node");
                self.welcomed_once = true;
                self.site = site;
                self.tell_inventory().await?;
            }
            Output::Neighbour { to, message } => self.send(to, &Frame::ToNeighbour(message)).await?,
            Output::Neighbours { neighbours, coordinator_bulk } => {
                self.readers.set_coordinator(parse(&coordinator_bulk));
                let places = |n: Neighbour| (n.node, (parse(&n.control), parse(&n.bulk)));
                self.set_neighbours(neighbours.into_iter().map(places).collect()).await?;
            }
            Output::Open(what) => self.open(what),
            Output::Close { content } => self.close(content),
            Output::Fetch { node, content, block } => self.fetch(node, content, block),
            Output::CancelFetch { node, content, block } => {
                if let Some(fetcher) = self.fetchers.get(&node) {
                    fetcher.cancel(content, block);
                }
            }
            Output::WanRate(rate) => self.set_wan_rate(rate),
            Output::Read(grant) => self.read(grant),
            Output::Renew { content, lease, origin } => self.renew_read(content, lease, origin),
            Output::Credit { content, lease, bytes } => self.credit_read(content, lease, bytes),
            Output::CancelRead { content, lease } => self.cancel_read(content, lease),
            Output::Serve { request, .. } => self.decide_upload(request, |stop| Verdict::Serve { stop }),
            Output::Refuse { request, .. } => self.decide_upload(request, |_| Verdict::Refuse),
            Output::Decline { request, .. } => self.decide_upload(request, |_| Verdict::Decline),
            Output::BreakOff { request, .. } => {
                if let Some(upload) = self.uploads.get(&request) {
                    upload.stop.cancel();
                }
            }
            Output::Seal { content } => self.seal(content),
            Output::Pins(pins) => {
                if let Err(error) = tokio::task::block_in_place(|| self.store.replace_pins(&pins)) {
                    warn!(%error, "cannot write down which packages deployments need: the cache is not made smaller");
                }
            }
            Output::MakeRoom => self.make_room(),
            Output::Persist(record) => tokio::task::block_in_place(|| self.step_log.append(&record))?,
            Output::Run { run, manifest, outputs } => self.run_step(run, &manifest, outputs),
            Output::Kill { run } => {
                if let Some(cancel) = self.runs.get(&run) {
                    cancel.cancel();
                }
            }
        }
        Ok(())
    }

    fn open(&self, what: What) {
        let (store, events) = (self.store.clone(), self.events_sender.clone());
        tokio::spawn(async move {
            let content = what.content();
            let opened = tokio::task::spawn_blocking(move || open(&store, &what)).await;
            let event = match opened {
                Ok(Ok(Some((content, input)))) => Event::Opened { content, input },
                Ok(Ok(None)) => Event::Core(Input::RecipeWanted { content }),
                Ok(Err(cause)) => Event::Core(Input::OpenFailed { content, cause }),
                Err(_) => {
                    Event::Core(Input::OpenFailed { content, cause: "a bug in the store: see the log".to_owned() })
                }
            };
            let _ = events.send(event).await;
        });
    }

    /// Lets go of a content.
    fn close(&mut self, content: ContentId) {
        self.contents.remove(&content);
        self.reads_waiting.remove(&content);
        self.uploads.retain(|_, upload| {
            let stays = upload.content != content;
            if !stays {
                upload.stop.cancel();
            }
            stays
        });
    }

    fn make_room(&self) {
        let Some(bytes_max) = self.config.cache_max else { return };
        let (store, events) = (self.store.clone(), self.events_sender.clone());
        tokio::spawn(async move {
            match tokio::task::spawn_blocking(move || store.collect(bytes_max)).await {
                Ok(Ok(collected)) => {
                    info!(?collected, "the cache was looked through");
                    if collected.packages > 0 {
                        let _ = events.send(Event::PackagesDropped).await;
                    }
                }
                Ok(Err(error)) => warn!(%error, "the cache cannot be made smaller"),
                Err(_) => warn!("the cache was not made smaller: a bug in the store"),
            }
        });
    }

    /// Tells the coordinator what is in the cache, for its plans.
    pub(super) async fn tell_inventory(&self) -> Result<(), AgentError> {
        let inventory = tokio::task::block_in_place(|| {
            let held = self.store.list();
            let cache_bytes = held.iter().map(|holding| holding.bytes).sum();
            let is_package = |holding: &&Holding| holding.kind == Kind::Package && holding.held == Held::Sealed;
            let mut packages: Vec<&Holding> = held.iter().filter(is_package).collect();
            packages.sort_by_key(|holding| std::cmp::Reverse(holding.last_use));
            let packages = packages.iter().take(INVENTORY_PACKAGES_MAX).map(|holding| PackageId(holding.content.0));
            Inventory { packages: packages.collect(), cache_bytes, free_bytes: free_bytes(&self.config.data_dir) }
        });
        self.send(self.membership.join.coordinator, &Frame::ToCoordinator(ToCoordinator::Inventory(inventory))).await
    }

    fn fetch(&mut self, node: NodeId, content: ContentId, block: BlockIndex) {
        let failed = Input::FetchFailed { node, content, block, why: FetchError::Timeout };
        let (Some(handle), Some(addresses)) = (self.contents.get(&content), self.neighbours.get(&node)) else {
            self.inputs.push_back(failed);
            return;
        };
        let start = || {
            Fetcher::start(
                node,
                addresses.clone(),
                self.bulk.clone(),
                self.download.clone(),
                self.shelf.buffers.clone(),
                self.events_sender.clone(),
            )
        };
        let job = Job { content: handle.clone(), block };
        let Err(job) = self.fetchers.entry(node).or_insert_with(start).fetch(job) else { return };
        // The task ended, idle or on an error that was reported: a fresh one tries again.
        let fresh = start();
        if fresh.fetch(job).is_err() {
            self.inputs.push_back(failed);
        }
        self.fetchers.insert(node, fresh);
    }

    /// Reads for a lease once those before it are over: what a killed node had half read is then of one lease only.
    fn read(&mut self, grant: Grant) {
        if grant.lease.is_own() {
            let content = grant.content.short();
            info!(%content, blocks = ?grant.blocks, "the coordinator is away: reading as a deputy");
        }
        if self.reads.contains_key(&grant.content) {
            self.reads_waiting.entry(grant.content).or_default().push_back(grant);
            return;
        }
        let Some(content) = self.contents.get(&grant.content).cloned() else { return };
        let (cancel, (renewed, renewals)) = (CancellationToken::new(), watch::channel(None));
        let (credit, confirmed) = watch::channel(grant.terms.first_bytes);
        let told = Told { renewed: renewals, credit: confirmed };
        let reading = Reading { lease: grant.lease, cancel: cancel.clone(), renewed, credit };
        self.reads.insert(grant.content, reading);
        let (readers, events) = (self.readers.clone(), self.events_sender.clone());
        tokio::spawn(async move { readers.read(grant, content, cancel, told, events).await });
    }

    /// Goes on with the next lease of a content.
    pub(super) fn read_ended(&mut self, content: ContentId, lease: LeaseId) {
        // One that was cancelled while it waited never was the content's current one.
        if self.reads.get(&content).is_some_and(|reading| reading.lease == lease) {
            self.reads.remove(&content);
            if let Some(next) = self.reads_waiting.get_mut(&content).and_then(VecDeque::pop_front) {
                self.read(next);
            }
        }
    }

    /// Has a lease read on with another signature or token, or begin with it if it waits.
    fn renew_read(&mut self, content: ContentId, lease: LeaseId, origin: HttpOrigin) {
        if let Some(reading) = self.reads.get(&content).filter(|reading| reading.lease == lease) {
            reading.renewed.send_replace(Some(Arc::new(origin)));
            return;
        }
        if let Some(grant) = self.waiting_read(content, lease) {
            grant.origin = Origin::Http(origin);
        }
    }

    /// Has a lease read on, or begin with more of it if it waits.
    fn credit_read(&mut self, content: ContentId, lease: LeaseId, bytes: u64) {
        if let Some(reading) = self.reads.get(&content).filter(|reading| reading.lease == lease) {
            reading.credit.send_if_modified(|confirmed| std::mem::replace(confirmed, bytes.max(*confirmed)) < bytes);
            return;
        }
        if let Some(grant) = self.waiting_read(content, lease) {
            grant.terms.first_bytes = grant.terms.first_bytes.max(bytes);
        }
    }

    /// A lease that waits for others of its content to be read.
    fn waiting_read(&mut self, content: ContentId, lease: LeaseId) -> Option<&mut Grant> {
        self.reads_waiting.get_mut(&content)?.iter_mut().find(|grant| grant.lease == lease)
    }

    fn cancel_read(&mut self, content: ContentId, lease: LeaseId) {
        match self.reads.get(&content) {
            Some(reading) if reading.lease == lease => reading.cancel.cancel(),
            _ => {
                let waiting = self.reads_waiting.entry(content).or_default();
                let before = waiting.len();
                waiting.retain(|grant| grant.lease != lease);
                if waiting.len() < before {
                    let outcome = wan::Outcome::Revoked;
                    let end = LeaseEnd { content, lease, read_bytes: 0, landed: Vec::new(), outcome, fault: None };
                    self.inputs.push_back(Input::ReadEnded { end, begun: Vec::new() });
                }
            }
        }
    }

    fn decide_upload(&mut self, request: u64, verdict: impl FnOnce(CancellationToken) -> Verdict) {
        let Some(upload) = self.uploads.get_mut(&request) else { return };
        if let Some(waits) = upload.verdict.take() {
            // The connection is gone: it says so itself.
            let _ = waits.send(verdict(upload.stop.clone()));
        }
    }

    fn seal(&self, content: ContentId) {
        let Some(handle) = self.contents.get(&content).cloned() else { return };
        let (store, events) = (self.store.clone(), self.events_sender.clone());
        tokio::spawn(async move {
            let sealed = tokio::task::spawn_blocking(move || store.seal(&handle)).await;
            let input = match sealed {
                Ok(Ok(())) => Input::Sealed { content },
                Ok(Err(error)) => Input::SealFailed { content, cause: error.to_string() },
                Err(_) => Input::SealFailed { content, cause: "a bug in the store: see the log".to_owned() },
            };
            let _ = events.send(Event::Core(input)).await;
        });
    }

    fn run_step(&mut self, run: StepRun, manifest: &Arc<Manifest>, outputs: Named) {
        let cancel = CancellationToken::new();
        self.runs.insert(run, cancel.clone());
        let me = self.membership.identity.node_id();
        let packages = manifest.packages_of(me).filter_map(|(index, package)| {
            let path = tokio::task::block_in_place(|| self.store.path_of(package.id)).ok()?;
            Some(PackageFile { index, name: package.name.clone(), path })
        });
        let surroundings = Surroundings {
            node: self.config.name.clone(),
            site: self.site.clone(),
            packages: packages.collect(),
            outputs,
            variables: self.variables.get(&run.deployment).cloned().unwrap_or_default(),
            work_dir: self.config.data_dir.join("work").join(run.deployment.to_string()),
        };
        info!(deployment = %run.deployment, step = %run.step.index, attempt = run.attempt, "a step starts");
        let (manifest, events) = (Arc::clone(manifest), self.events_sender.clone());
        tokio::spawn(async move { run_step(run, &manifest, surroundings, cancel, events).await });
    }
}

/// Opens a content in the store; `None` if its recipe is needed first.
fn open(store: &Store, what: &What) -> Result<Option<(Content, Input)>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let opened = match what {
        What::Recipe(outline) => store.begin_recipe(outline).map_err(|error| text(&error))?,
        What::Package { package, size, recipe } => {
            let id: RecipeId = recipe.recipe;
            let Some(recipe) = store.recipe(id).map_err(|error| text(&error))? else { return Ok(None) };
            if recipe.package() != *package || recipe.size() != *size {
                return Err(format!("recipe {} describes another package than the manifest says", id.short()));
            }
            store.begin_package(&recipe).map_err(|error| text(&error))?
        }
    };
    Ok(Some(describe(opened)))
}

fn describe(opened: store::Opened) -> (Content, Input) {
    let store::Opened { content, suspects, .. } = opened;
    for suspect in suspects {
        warn!(package = %suspect.short(), "a package of the cache is damaged; what is good of it is used");
    }
    let layout = content.layout();
    let block_bytes = layout.blocks().map(|block| u32::try_from(layout.block_bytes(block)).unwrap_or(u32::MAX));
    let lacking = content.lacking().into_iter().map(|(block, bytes)| Lacking { block, bytes });
    let opened = Opened {
        block_bytes: block_bytes.collect(),
        lacking: lacking.collect(),
        local_bytes: layout.transfer_bytes() - content.missing_bytes(),
        sealed: content.is_sealed(),
    };
    let input = Input::Opened { content: content.id(), opened };
    (content, input)
}

/// Addresses that this program can dial; others are left out, as another version may know more transports.
fn parse(texts: &[String]) -> Vec<Multiaddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Addresses that others may reach: without those of loopback, unless there are no others.
pub(super) fn reachable(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let is_loopback = |address: &Multiaddr| {
        let text = address.to_string();
        text.starts_with("/ip4/127.") || text.starts_with("/ip6/::1/")
    };
    let public: Vec<_> = addresses.iter().filter(|address| !is_loopback(address)).cloned().collect();
    if public.is_empty() { addresses.to_vec() } else { public }
}

/// `bound`, with the hosts of `known` in place of an unspecified one.
pub(super) fn on_interfaces(bound: &[Multiaddr], known: &[Multiaddr]) -> Vec<Multiaddr> {
    let mut found = BTreeMap::new();
    for address in bound {
        let text = address.to_string();
        let port = text.rsplit_once("/tcp/").map_or("0", |(_, port)| port);
        let hosts: Vec<String> = match text.strip_prefix("/ip4/0.0.0.0/").or(text.strip_prefix("/ip6/::/")) {
            None => vec![text.clone()],
            Some(_) => known
                .iter()
                .map(ToString::to_string)
                .filter_map(|known| known.split_once("/tcp/").map(|(host, _)| format!("{host}/tcp/{port}")))
                .collect(),
        };
        for host in hosts {
            if let Ok(address) = host.parse::<Multiaddr>() {
                found.insert(host, address);
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_is_offered_only_where_there_is_nothing_else() {
        let both = addresses(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"]);
        assert_eq!(reachable(&both), both[1..]);
        assert_eq!(reachable(&both[..1]), both[..1]);
    }

    #[test]
    fn an_unspecified_host_becomes_those_of_the_interfaces() {
        let known = addresses(&["/ip4/10.0.0.1/tcp/7442", "/ip4/10.0.0.1/udp/7442/quic-v1"]);
        let on = |bound: &str| on_interfaces(&addresses(&[bound]), &known);
        assert_eq!(on("/ip4/0.0.0.0/tcp/7443"), addresses(&["/ip4/10.0.0.1/tcp/7443"]));
        assert_eq!(on("/ip4/127.0.1.1/tcp/9"), addresses(&["/ip4/127.0.1.1/tcp/9"]));
    }
}
