//! Carries out what the core wants done.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_node::net::{Allow, SendError};
use shoal_node::runner::{Surroundings, run_step};
use shoal_node::steps::PackageFile;
use shoal_node::transfer::serve::{Declined, Special};
use shoal_proto::bulk::{BlockRequest, Encoding, Refusal};
use shoal_proto::codec;
use shoal_proto::coordinator::{Notice, Output, Part, Record};
use shoal_proto::id::{ContentId, DeploymentId, Name, NodeId, PackageIndex, RecipeId};
use shoal_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, RECORD_BYTES_MAX};
use shoal_proto::manifest::Manifest;
use shoal_proto::outputs::Named;
use shoal_proto::rollout::variables::Told;
use shoal_proto::wan;
use shoal_proto::wire::{Frame, Grant, Origin, Standby, StepRun, ToNode};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::origins::{Place, Wanting};
use super::{ServeError, Server};
use crate::catalog::{Catalog, CatalogError};
use crate::commit::commit;
use crate::trail;

/// Bytes of the encoded sources of a deployment.
pub(super) const SOURCES_BYTES_MAX: usize = RECORD_BYTES_MAX / 2;

impl Server {
    /// Carries out everything that follows from what was handled, with all records of it durable first.
    pub(super) async fn settle(&mut self) -> Result<(), ServeError> {
        loop {
            let acts = std::mem::take(&mut self.acts);
            let committed = commit(&mut self.core, &mut self.journal, &acts)?;
            if let Some(frame) = committed.frame {
                acts.iter().filter_map(|entry| trail::act(frame, entry)).for_each(|act| self.trail.push(act));
            }
            if committed.frame.is_none() && committed.outputs.is_empty() {
                return Ok(());
            }
            committed.records.iter().for_each(|record| self.note(record));
            for output in committed.outputs {
                self.carry_out(output).await?;
            }
            for (node, run) in std::mem::take(&mut self.ended) {
                self.end_output(Some(node), run);
            }
        }
    }

    /// Lets watchers see a record.
    fn note(&mut self, record: &Record) {
        let (Record::Rollout { deployment, .. }
        | Record::Acquired { deployment, .. }
        | Record::Read { deployment, .. }
        | Record::Budget { deployment, .. }
        | Record::Came { deployment, .. }) = record
        else {
            return;
        };
        self.touched.insert(*deployment);
        let manifest = self.core.manifest(*deployment).map(Arc::as_ref);
        self.event_log.note(record, manifest, self.core.created(*deployment));
    }

    async fn carry_out(&mut self, output: Output) -> Result<(), ServeError> {
        match output {
            // Taken by `commit`.
            Output::Persist(_) => {}
            Output::Node { to, message: ToNode::Revoke { content, lease } }
                if self.revoke_unsent(to, content, lease) => {}
            Output::Node { to, message } => self.send(to, message).await?,
            Output::Grant { to, site, deployment, package, part, grant } => {
                self.grant(to, &site, deployment, package, part, grant).await?;
            }
            Output::Standby { to, site, deployment, package, standby } => {
                self.standby(to, &site, deployment, package, standby).await?;
            }
            Output::Variables { to, deployment } => self.tell_variables(to, deployment).await?,
            Output::RollBack { of } => self.roll_back(of),
            Output::Join { deployment, node } => self.join(deployment, node),
            Output::Disconnect(node) => self.control.disconnect(node).await.map_err(|_| ServeError::MeshStopped)?,
            Output::Run { run, manifest, outputs } => self.run_step(run, &manifest, outputs),
            Output::Kill { run } => {
                if let Some(cancel) = self.runs.get(&run) {
                    cancel.cancel();
                }
            }
            Output::StepOutput { from, run, stream, text } => self.keep_output(Some(from), run, stream, &text),
            Output::Notice(notice) => self.on_notice(notice).await?,
        }
        Ok(())
    }

    pub(super) async fn send(&self, to: NodeId, message: ToNode) -> Result<(), ServeError> {
        match codec::encode(&Frame::ToNode(message), CONTROL_MESSAGE_BYTES_MAX) {
            Ok(bytes) => match self.control.send(to, bytes.into()).await {
                Ok(()) | Err(SendError::Size(_)) => Ok(()),
                Err(SendError::Stopped) => Err(ServeError::MeshStopped),
            },
            Err(error) => {
                error!(%error, "a message is too large to be sent");
                Ok(())
            }
        }
    }

    /// Tells a node the variables that it may see, and no others.
    async fn tell_variables(&self, to: NodeId, deployment: DeploymentId) -> Result<(), ServeError> {
        match self.variables(Some(to), deployment) {
            Some(told) => self.send(to, ToNode::Variables { deployment, told }).await,
            None => {
                error!(%deployment, node = self.node_name(to), "secrets are lost: steps that name them will fail");
                Ok(())
            }
        }
    }

    fn variables(&self, node: Option<NodeId>, deployment: DeploymentId) -> Option<Told> {
        // Of one that is over, nobody keeps secrets.
        if self.core.is_over(deployment) {
            return Some(Told::default());
        }
        let variables = &self.core.created(deployment)?.variables;
        let secrets = tokio::task::block_in_place(|| self.secrets.of(deployment));
        variables.told(node, &secrets)
    }

    async fn grant(
        &mut self,
        to: NodeId,
        site: &Name,
        deployment: DeploymentId,
        package: PackageIndex,
        part: Part,
        mut grant: Grant,
    ) -> Result<(), ServeError> {
        match part {
            Part::FromCoordinator => {}
            Part::Recipe => {
                let related = self.catalog.related(RecipeId(grant.content.0));
                grant.origin = Origin::Coordinator { dictionary: related.first().copied() };
            }
            Part::FromFeed => {
                let place = Place { deployment, package, site: site.clone() };
                return self.send_with_origin(to, place, Wanting::Grant(grant)).await;
            }
        }
        self.send(to, ToNode::Grant(grant)).await
    }

    /// Tells a deputy where it would read. It is told with a feed's credentials, as holders of leases are.
    async fn standby(
        &mut self,
        to: NodeId,
        site: &Name,
        deployment: DeploymentId,
        package: PackageIndex,
        standby: Standby,
    ) -> Result<(), ServeError> {
        let place = Place { deployment, package, site: site.clone() };
        match standby.deputies.is_empty() {
            false => self.send_with_origin(to, place, Wanting::Standby(standby)).await,
            true => {
                self.drop_standby(to, standby.content);
                self.send(to, ToNode::Standby(standby)).await
            }
        }
    }

    fn run_step(&mut self, run: StepRun, manifest: &Arc<Manifest>, outputs: Named) {
        let cancel = CancellationToken::new();
        self.runs.insert(run, cancel.clone());
        let name = |text: &str| Name::new(text).expect("a good name");
        let packages = manifest.packages.iter().zip(0..).filter_map(|(package, index)| {
            let path = tokio::task::block_in_place(|| self.store.path_of(package.id)).ok()?;
            Some(PackageFile { index: PackageIndex(index), name: package.name.clone(), path })
        });
        let surroundings = Surroundings {
            node: name("coordinator"),
            site: name("coordinator"),
            packages: packages.collect(),
            outputs,
            variables: self.variables(None, run.deployment).unwrap_or_default(),
            work_dir: self.config.data_dir.join("work").join(run.deployment.to_string()),
        };
        let (manifest, events) = (Arc::clone(manifest), self.events_sender.clone());
        tokio::spawn(async move { run_step(run, &manifest, surroundings, cancel, events).await });
    }

    async fn on_notice(&mut self, notice: Notice) -> Result<(), ServeError> {
        let name = |id: &NodeId| self.node_name(*id);
        match &notice {
            Notice::NodeOnline(id) => {
                info!(node = name(id), "a node is online");
                self.admit_members().await?;
            }
            Notice::NodeOffline(id) => info!(node = name(id), "a node is offline"),
            Notice::Refused { node, reason } => warn!(node = %node.short(), reason, "a node is refused"),
            Notice::Lied { by, neighbour, content } => {
                warn!(by = name(by), neighbour = name(neighbour), content = %content.short(), "a node sent wrong bytes");
            }
            Notice::ReadFailed { node, content, cause } => {
                warn!(node = name(node), content = %content.short(), cause, "a read over the WAN failed");
            }
            Notice::Wan { site, content, notice } => say_of_wan(site, *content, notice),
            Notice::Changed(id) => drop(self.touched.insert(*id)),
            Notice::Finished { deployment, outcome } => {
                info!(%deployment, ?outcome, "a deployment is over");
                self.touched.insert(*deployment);
                self.forget_secrets();
            }
        }
        Ok(())
    }

    /// Lets exactly the members read from the bulk mesh (MEMBERS-ONLY).
    pub(super) async fn admit_members(&mut self) -> Result<(), ServeError> {
        let members: BTreeSet<_> = self.core.directory().members().map(|member| member.membership.node).collect();
        self.open_files.look(members.len());
        self.bulk.allow(Allow::Only(members)).await.map_err(|_| ServeError::MeshStopped)
    }

    /// What people call a node.
    pub(super) fn node_name(&self, node: NodeId) -> String {
        let member = self.core.directory().member(node);
        member.map_or_else(|| node.short(), |member| member.membership.name.to_string())
    }
}

fn say_of_wan(site: &Name, content: ContentId, notice: &wan::Notice) {
    let content = content.short();
    match notice {
        wan::Notice::BudgetEmpty { wanted_bytes, left_bytes } => warn!(
            %site, %content, wanted_bytes, left_bytes,
            "reading waits, the site's budget for reading again is spent: `shoal status` says what would allow it",
        ),
        wan::Notice::NoReader { missing_blocks } => {
            warn!(%site, %content, missing_blocks, "no node of the site can read what is missing");
        }
        wan::Notice::OriginFailing { failures, .. } => {
            warn!(%site, %content, failures, "the origin fails for every node that tries; it is tried again later");
        }
        wan::Notice::OriginBack => info!(%site, %content, "the origin answers again"),
    }
}

/// Serves recipes out of the catalog, compressed against another one if the asker has it.
pub(super) fn recipes(catalog: Catalog) -> Arc<Special> {
    Arc::new(move |request: &BlockRequest| {
        let recipe = RecipeId(request.content.0);
        let segments: Vec<u32> = request.runs.iter().flat_map(|run| run.first..run.first + run.count).collect();
        let Encoding::Zstd { dictionary } = request.encoding else { return None };
        let &[piece] = &segments[..] else { return Some(Err(Declined::Refused(Refusal::SegmentsMissing))) };
        match catalog.compressed_piece(recipe, piece, dictionary) {
            Ok(bytes) => Some(Ok(bytes.to_vec())),
            Err(CatalogError::NoRecipe { recipe: missing }) if missing == recipe => None,
            Err(CatalogError::NoRecipe { .. }) => Some(Err(Declined::Refused(Refusal::DictionaryMissing))),
            Err(error) => {
                warn!(%error, "a recipe cannot be served");
                Some(Err(Declined::Refused(Refusal::ReadFailed)))
            }
        }
    })
}
