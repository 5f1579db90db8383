//! What operators ask for, over the API.

use std::collections::BTreeSet;
use std::time::Instant;

use shoal_node::runner::RunReport;
use shoal_proto::coordinator::{AllowReading, Coordinator};
use shoal_proto::id::{DeploymentId, Name, NodeId, PackageIndex};
use shoal_proto::manifest::{Phase, StepRef};
use shoal_proto::rollout::{Actor, Operator, Which};
use shoal_proto::wire::{OutputStream, StepRun};

use super::acts::{done, of_action};
use super::deploy::Want;
use super::events::step_name;
use super::hours::at_sites;
use super::logs::Writer;
use super::{ServeError, Server};
use crate::api::command::{Command, Cursor, LogFilter, Reply};
use crate::api::limits::{EVENTS_MAX, LOG_LINES_MAX};
use crate::api::types::{
    Act, Action, AllowRequest, Answer, Done, DoneSchema, Events, EventsSchema, Feed, Feeds, FeedsSchema, LimitedBy,
    Logs, LogsSchema, Node, Nodes, NodesSchema, Site, Sites, SitesSchema,
};
use crate::api::{ApiError, ErrorCode};
use crate::cli::units;
use crate::config::feed::{FeedPlace, Remote};

/// A request that waits for something to happen.
pub(super) struct Waiter {
    pub(super) deadline: Instant,
    id: DeploymentId,
    after: u64,
    question: Question,
}

enum Question {
    Logs(LogFilter, Reply<Logs>),
    Events(Reply<Events>),
}

impl Server {
    pub(super) async fn on_command(&mut self, command: Command) -> Result<(), ServeError> {
        // An operator whose client is gone needs no answer: failed sends are of no matter throughout.
        match command {
            Command::CreateToken { request, by, reply } => {
                let what = format!("site {}", request.site);
                let answer = self.create_token(request);
                self.conclude(by, done("token create", what), answer, reply).await?;
            }
            Command::ListTokens { reply } => drop(reply.send(Ok(self.list_tokens()))),
            Command::RevokeToken { id, by, reply } => {
                let answer = self.revoke_token(&id);
                self.conclude(by, done("token revoke", format!("token {id}")), answer, reply).await?;
            }
            Command::Audit { count, reply } => drop(reply.send(Ok(self.audit(count)))),
            Command::VerifyAudit { known, reply } => self.verify_audit(known, reply),
            Command::Nodes { reply } => drop(reply.send(Ok(self.nodes()))),
            Command::Sites { reply } => drop(reply.send(Ok(self.sites()))),
            Command::LimitSite { site, request, by, reply } => {
                let answer = self.limit_site(&site, &request);
                let what = answer.as_ref().map_or_else(|_| format!("site {site}"), |done| done.message.clone());
                self.conclude(by, done("sites limit", what), answer, reply).await?;
            }
            Command::Freeze { request, by, reply } => {
                let answer = self.freeze(&request);
                let what = format!("{}: {}", at_sites(&request.sites), request.reason);
                self.conclude(by, done("freeze", what), answer, reply).await?;
            }
            Command::Thaw { request, by, reply } => {
                let answer = self.thaw(&request);
                self.conclude(by, done("thaw", at_sites(&request.sites)), answer, reply).await?;
            }
            Command::TestFeed { feed, request, reply } => self.test_feed(feed, request, reply),
            Command::Feeds { reply } => drop(reply.send(Ok(self.feeds()))),
            Command::AddRecipe { plain, by, reply } => self.add_recipe(plain, by, reply),
            Command::Plan { request, reply } => self.resolve(request, Want::Plan(reply)),
            Command::WayBack { id, reply } => self.show_way_back(id, reply),
            Command::Deploy { request, by, reply } => self.resolve(request, Want::Deploy(by, reply)),
            Command::Deployments { reply } => drop(reply.send(Ok(self.deployments()))),
            Command::Status { id, reply } => {
                let answer = self.status(id);
                let _ = reply.send(answer);
            }
            Command::Logs { id, filter, cursor, reply } => self.wait(id, cursor, Question::Logs(filter, reply)),
            Command::Events { id, cursor, reply } => self.wait(id, cursor, Question::Events(reply)),
            Command::Operator { id, action, by, reply } => {
                let answer = self.operate(id, &action);
                self.conclude(by, of_action(id, &action), answer, reply).await?;
            }
            Command::Allow { id, request, by, reply } => {
                let AllowRequest { site, bytes, .. } = &request;
                let what = format!("{id}: {site} may read {} more", units::bytes(*bytes));
                let answer = self.allow(id, request);
                self.conclude(by, Act { deployment: Some(id.to_string()), ..done("allow", what) }, answer, reply)
                    .await?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, id: DeploymentId, cursor: Cursor, question: Question) {
        let waiter = Waiter { deadline: Instant::now() + cursor.wait, id, after: cursor.after, question };
        if let Some(waiter) = self.answer(waiter) {
            self.waiters.push(waiter);
        }
    }

    /// Answers requests whose time has come, or for which there is something.
    pub(super) fn answer_waiters(&mut self) {
        let touched = std::mem::take(&mut self.touched);
        let now = Instant::now();
        let concerned = |waiter: &Waiter| touched.contains(&waiter.id) || waiter.deadline <= now;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters).into_iter().partition(concerned);
        self.waiters = later;
        for waiter in due {
            let kept = self.answer(waiter);
            self.waiters.extend(kept);
        }
    }

    /// Answers a request, or gives it back if it is to wait longer.
    fn answer(&mut self, waiter: Waiter) -> Option<Waiter> {
        let Waiter { deadline, id, after, question } = waiter;
        let late = deadline <= Instant::now();
        if self.core.manifest(id).is_none() {
            match question {
                Question::Logs(_, reply) => drop(reply.send(Err(no_deployment(id)))),
                Question::Events(reply) => drop(reply.send(Err(no_deployment(id)))),
            }
            return None;
        }
        match question {
            Question::Logs(filter, reply) => {
                let (lines, next) = self.logs.after(id, after, &filter, LOG_LINES_MAX);
                let ended = self.core.is_over(id) && lines.len() < LOG_LINES_MAX;
                if lines.is_empty() && !ended && !late && !reply.is_closed() {
                    return Some(Waiter { deadline, id, after: next, question: Question::Logs(filter, reply) });
                }
                let _ = reply.send(Ok(Logs { schema: LogsSchema::V1, id, lines, next, ended }));
            }
            Question::Events(reply) => {
                let (events, ended) = self.event_log.after(id, after, EVENTS_MAX);
                if events.is_empty() && !ended && !late && !reply.is_closed() {
                    return Some(Waiter { deadline, id, after, question: Question::Events(reply) });
                }
                let next = events.last().map_or(after, |event| event.seq);
                let _ = reply.send(Ok(Events { schema: EventsSchema::V1, events, next, ended }));
            }
        }
        None
    }

    fn operate(&mut self, id: DeploymentId, action: &Action) -> Result<Done, ApiError> {
        let (command, message) = self.operator(id, action)?;
        if let Action::Rollback { plan: Some(plan) } = action {
            self.hold_to_way_back(id, plan)?;
        }
        if command == Operator::Rollback && self.core.is_over(id) {
            let message = self.take_back(id)?;
            return Ok(Done { schema: DoneSchema::V1, message, nodes: Vec::new() });
        }
        self.keep_hours();
        let now = self.now();
        let refused = |error| ApiError::new(ErrorCode::Conflict, format!("{id}: {error}"));
        self.core.operate(id, command, now).map_err(refused)?;
        Ok(Done { schema: DoneSchema::V1, message, nodes: Vec::new() })
    }

    /// Lets a site read more than its budgets pay for.
    fn allow(&mut self, id: DeploymentId, request: AllowRequest) -> Result<Done, ApiError> {
        let AllowRequest { site, bytes, package } = request;
        let manifest = self.core.manifest(id).ok_or_else(|| no_deployment(id))?;
        let index = |name: &Name| {
            let mut packages = manifest.packages.iter().zip(0..).filter(|(package, _)| package.name == *name);
            let missing = || ApiError::new(ErrorCode::NotFound, format!("{id} has no package `{name}`"));
            packages.next().map(|(_, index)| PackageIndex(index)).ok_or_else(missing)
        };
        let package = package.as_ref().map(index).transpose()?;
        let message = format!("{site} may read {} more for {id}", units::bytes(bytes));
        let now = self.now();
        let budgets = self.core.allow_reading(id, &AllowReading { site, package, bytes }, now);
        let budgets = budgets.map_err(|error| ApiError::new(ErrorCode::Conflict, error.to_string()))?;
        let nodes = budgets.iter().filter_map(|of| of.node).map(|node| self.node_name(node)).collect();
        Ok(Done { schema: DoneSchema::V1, message, nodes })
    }

    /// The command that `action` means for a deployment, and what to say when it is done.
    fn operator(&self, id: DeploymentId, action: &Action) -> Result<(Operator, String), ApiError> {
        if self.core.manifest(id).is_none() {
            return Err(no_deployment(id));
        }
        Ok(match action {
            Action::Pause => (Operator::Pause, format!("{id} is paused: nothing starts until `shoal resume {id}`")),
            Action::Resume => (Operator::Resume, format!("{id} goes on")),
            Action::Release { now: false } => (Operator::Release, format!("the gate of {id} is released")),
            Action::Release { now: true } => {
                (Operator::ReleaseNow, format!("the gate of {id} is released, and does not wait for its time"))
            }
            Action::AnyHour => {
                (Operator::AnyHour, format!("steps of {id} start also outside of maintenance windows and in freezes"))
            }
            Action::KeepHours => {
                let message =
                    format!("steps of {id} wait for maintenance windows and freezes again; what runs is let finish");
                (Operator::KeepHours, message)
            }
            Action::Promote => (Operator::Promote, format!("the next wave of {id} begins")),
            Action::Cancel => (Operator::Cancel, format!("{id} is cancelled: what runs is being ended")),
            Action::Rollback { .. } => (
                Operator::Rollback,
                format!("{id} is being ended, and is rolled back then: `shoal status {id}` says by which deployment"),
            ),
            Action::Answer { answer, node, step } => {
                let actor = node.as_ref().map(|name| self.actor(id, name)).transpose()?;
                let step = step.as_ref().map(|name| self.step(id, name)).transpose()?;
                let which = Which { actor, step };
                match answer {
                    Answer::Retry => (Operator::Retry(which), format!("{id} tries again")),
                    Answer::Ignore => (Operator::Ignore(which), format!("{id} goes on as if it had succeeded")),
                    Answer::Exclude => (Operator::Exclude(which), format!("{id} goes on without the node")),
                    Answer::Fail => (Operator::Fail(which), format!("{id} is failing")),
                }
            }
        })
    }

    fn actor(&self, id: DeploymentId, name: &Name) -> Result<Actor, ApiError> {
        if name.as_str() == "coordinator" {
            return Ok(Actor::Coordinator);
        }
        let names = self.core.created(id).map(|created| &created.options.names);
        let found = names.and_then(|names| names.iter().find(|(_, known)| *known == name));
        let missing = || {
            ApiError::new(ErrorCode::NotFound, format!("`{name}` is no target node of {id}"))
                .next(format!("see `shoal status {id}`"))
        };
        found.map(|(node, _)| Actor::Node(*node)).ok_or_else(missing)
    }

    fn step(&self, id: DeploymentId, name: &Name) -> Result<StepRef, ApiError> {
        let manifest = self.core.manifest(id);
        let find = |steps: &[shoal_proto::manifest::Step], phase| {
            let index = steps.iter().position(|step| step.name == *name)?;
            Some(StepRef { phase, index: shoal_proto::id::StepIndex(u16::try_from(index).ok()?) })
        };
        let found = manifest.and_then(|manifest| {
            find(&manifest.steps, Phase::Steps).or_else(|| find(&manifest.before_acquire, Phase::Before))
        });
        found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("{id} has no step `{name}`")))
    }

    /// Keeps what a step wrote; `from` is the node, or nobody for the coordinator.
    pub(super) fn keep_output(&mut self, from: Option<NodeId>, run: StepRun, stream: OutputStream, text: &str) {
        if let Some(writer) = self.writer(from, run, stream) {
            self.logs.write(&writer, text);
            self.touched.insert(run.deployment);
        }
    }

    fn writer(&self, node: Option<NodeId>, run: StepRun, stream: OutputStream) -> Option<Writer> {
        let manifest = self.core.manifest(run.deployment)?;
        let node_name = node.map_or_else(|| "coordinator".to_owned(), |node| self.node_name(node));
        let step_name = step_name(run.step, manifest);
        Some(Writer { node, node_name, step_name, run, stream })
    }

    /// Notes that a run is over, so that its last line has an end.
    pub(super) fn end_output(&mut self, from: Option<NodeId>, run: StepRun) {
        if let Some(writer) = self.writer(from, run, OutputStream::Stdout) {
            self.logs.end(&writer);
        }
    }

    pub(super) fn on_run_report(&mut self, report: RunReport) {
        match report {
            RunReport::Output { run, stream, text } => self.keep_output(None, run, stream, &text),
            RunReport::Ended { run, outcome, outputs } => {
                self.runs.remove(&run);
                self.end_output(None, run);
                self.handle(shoal_proto::coordinator::Input::StepWrote { run, outputs });
                self.handle(shoal_proto::coordinator::Input::StepEnded { run, outcome });
            }
        }
    }

    fn nodes(&self) -> Nodes {
        let node = |member| node(member, &self.core);
        let mut nodes: Vec<Node> = self.core.directory().members().map(node).collect();
        nodes.sort_by(|a, b| (&a.site, &a.name).cmp(&(&b.site, &b.name)));
        Nodes { schema: NodesSchema::V1, nodes }
    }

    fn sites(&self) -> Sites {
        let directory = self.core.directory();
        let mut names: BTreeSet<&Name> = self.config.sites.keys().collect();
        names.extend(directory.members().map(|member| &member.membership.site));
        names.extend(self.core.overridden_sites());
        let sites = names.into_iter().map(|name| {
            let members = || directory.members().filter(|member| member.membership.site == *name);
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            let site = Site {
                name: name.to_string(),
                nodes: count(members().count()),
                online: count(members().filter(|member| member.online.is_some()).count()),
                wan_limit: None,
                limited_by: LimitedBy::Base,
                limited_until: None,
                base_limit: None,
                wan_rate: 0,
                timezone: None,
                shut: None,
            };
            self.show_limit(name, site)
        });
        Sites { schema: SitesSchema::V1, sites: sites.collect() }
    }

    fn feeds(&self) -> Feeds {
        let feeds = self.feeds.all().iter().map(|(name, feed)| {
            let (location, mirrors) = match &feed.place {
                FeedPlace::Remote(remote) => (remote.url.clone(), mirrors(remote)),
                FeedPlace::Folder(path) => (path.display().to_string(), Vec::new()),
            };
            Feed { name: name.to_string(), kind: feed.kind.name.to_owned(), location, mirrors }
        });
        Feeds { schema: FeedsSchema::V1, feeds: feeds.collect() }
    }
}

fn mirrors(remote: &Remote) -> Vec<String> {
    remote.mirrors.iter().map(|mirror| mirror.url.clone()).collect()
}

fn node(member: &shoal_proto::directory::Member, core: &Coordinator) -> Node {
    let membership = &member.membership;
    let mut labels = std::collections::BTreeMap::<String, String>::new();
    for (key, value) in membership.all_labels() {
        // Several values of one key, such as roles, stand in one text.
        labels.entry(key).and_modify(|all| *all = format!("{all},{value}")).or_insert(value);
    }
    Node {
        name: membership.name.to_string(),
        site: membership.site.to_string(),
        labels,
        online: member.online.is_some(),
        id: membership.node.to_string(),
        addresses: member.online.as_ref().map(|online| online.control.clone()).unwrap_or_default(),
        version: member.online.as_ref().map(|online| online.version.clone()),
        cache_bytes: core.inventory(membership.node).map(|inventory| inventory.cache_bytes),
        last_seen: None,
    }
}

pub(super) fn no_deployment(id: DeploymentId) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no deployment {id}"))
        .next("list them with `shoal status --list`")
}
