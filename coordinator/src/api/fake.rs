//! A driver for tests: plays a list of statuses, one event each, and answers over a real loopback listener.

use std::time::Duration;

use shoal_proto::content::Recipe;
use shoal_proto::id::DeploymentId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, Reply};
use super::error::{ApiError, ErrorCode};
use super::types::*;
use super::{AdminToken, limits, sample};
use crate::trail::By;

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A coordinator's API with a played driver behind it; stops when it is dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    /// What operators asked for, and who.
    pub(crate) actions: mpsc::Receiver<(Action, By)>,
    _stop: oneshot::Sender<()>,
}

impl Fake {
    /// Plays `statuses`: the first until its event was fetched, then the next; the last one stays.
    pub(crate) async fn start(statuses: Vec<Status>) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), statuses)
    }

    /// The same on a listener of the caller's.
    pub(crate) fn start_on(listener: TcpListener, statuses: Vec<Status>) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (commands, inbox) = mpsc::channel(limits::COMMANDS_QUEUED_MAX);
        let (stop, stopped) = oneshot::channel::<()>();
        let (acted, actions) = mpsc::channel(16);
        tokio::spawn(super::serve(listener, AdminToken::new(TOKEN), commands, async {
            let _ = stopped.await;
        }));
        tokio::spawn(Play { statuses, seen: 0, acted }.answer_all(inbox));
        Self { url, actions, _stop: stop }
    }
}

struct Play {
    statuses: Vec<Status>,
    seen: u64,
    acted: mpsc::Sender<(Action, By)>,
}

impl Play {
    async fn answer_all(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(command) = inbox.recv().await {
            self.answer(command).await;
        }
    }

    fn status(&self) -> &Status {
        let index = usize::try_from(self.seen).unwrap().min(self.statuses.len() - 1);
        &self.statuses[index]
    }

    fn check_id(&self, id: DeploymentId) -> Result<(), ApiError> {
        let known = self.status().id;
        let error = || ApiError::new(ErrorCode::NotFound, format!("there is no deployment {id}"));
        if id == known { Ok(()) } else { Err(error().next(format!("the newest is {known}"))) }
    }

    async fn answer(&mut self, command: Command) {
        match command {
            Command::CreateToken { request, reply, .. } => put(reply, Ok(new_token(&request))),
            Command::ListTokens { reply } => put(reply, Ok(Tokens::default())),
            Command::RevokeToken { id, reply, .. } => put(reply, Ok(done(format!("token {id} is revoked"), vec![]))),
            Command::Nodes { reply } => put(reply, Ok(sample::nodes())),
            Command::Sites { reply } => put(reply, Ok(sample::sites())),
            Command::LimitSite { site, request, reply, .. } => {
                put(reply, Ok(done(format!("{site}: {request:?}"), vec![])));
            }
            Command::Freeze { request, reply, .. } => put(reply, Ok(done(format!("{request:?}"), vec![]))),
            Command::Thaw { request, reply, .. } => put(reply, Ok(done(format!("{request:?}"), vec![]))),
            Command::Feeds { reply } => put(reply, Ok(Feeds::default())),
            Command::TestFeed { feed, request, reply } => put(reply, Ok(sample::feed_test(&feed, &request))),
            Command::AddRecipe { plain, reply, .. } => put(reply, recipe_added(&plain)),
            Command::WayBack { id, reply } => put(reply, self.check_id(id).map(|()| sample::way_back(id))),
            Command::Plan { reply, .. } => put(reply, Ok(Box::new(sample::plan()))),
            Command::Deploy { request, reply, .. } => {
                let bad =
                    ApiError::new(ErrorCode::BadRequest, format!("{}: line 2: unknown key `relase`", request.file));
                let bad = bad.next("did you mean `release`?");
                let good = sample::deployment(&self.statuses[0]);
                put(reply, if request.text.contains("relase") { Err(bad) } else { self.deploy(&request, good) });
            }
            Command::Deployments { reply } => {
                let deployments = vec![sample::deployment(self.status())];
                put(reply, Ok(Deployments { schema: DeploymentsSchema::V1, deployments }));
            }
            Command::Status { id, reply } => {
                let known = id.map_or(Ok(()), |id| self.check_id(id));
                put(reply, known.map(|()| Box::new(self.status().clone())));
            }
            Command::Logs { id, cursor, reply, filter } => {
                let lines = log_lines().into_iter().filter(|line| {
                    line.seq > cursor.after && filter.node.as_ref().is_none_or(|node| node.as_str() == line.node)
                });
                let lines: Vec<_> = lines.take(1).collect();
                let next = lines.last().map_or(cursor.after, |line| line.seq);
                put(
                    reply,
                    self.check_id(id).map(|()| Logs { schema: LogsSchema::V1, id, ended: next == 2, lines, next }),
                );
            }
            Command::Events { id, cursor, reply } => {
                let known = self.check_id(id);
                let answer = known.map(|()| self.events(cursor.after));
                let nothing = answer.as_ref().is_ok_and(|page| page.events.is_empty() && !page.ended);
                let wait = if nothing { cursor.wait } else { Duration::ZERO };
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    put(reply, answer);
                });
            }
            Command::Allow { request, reply, .. } => {
                let AllowRequest { site, bytes, package } = request;
                let of = package.map_or_else(String::new, |package| format!(" of {package}"));
                put(reply, Ok(done(format!("{site} may read {bytes} bytes more{of}"), vec![])));
            }
            Command::Audit { count, reply } => {
                let mut entries = sample::audit_entries();
                entries.drain(..entries.len().saturating_sub(count));
                put(reply, Ok(Audit { schema: AuditSchema::V1, entries, head: sample::HEAD.to_owned() }));
            }
            Command::VerifyAudit { known, reply } => put(reply, Ok(sample::verdict(known.is_some()))),
            Command::Operator { action, reply, by, .. } => {
                self.acted.send((action, by)).await.unwrap();
                put(reply, Ok(done("`restart` runs again on 1 node".to_owned(), vec!["syd-2".to_owned()])));
            }
        }
    }

    /// What plan it wants must be the sample's; a file that says `held` waits for another deployment, until the last status
    /// is shown; one that says `same` was deployed before.
    fn deploy(&self, request: &DeployRequest, good: Deployment) -> Result<Deployment, ApiError> {
        let blocked = |message: &str| ApiError::new(ErrorCode::Blocked, format!("not deployed: {message}"));
        if request.plan.as_ref().is_some_and(|plan| **plan != sample::plan()) {
            return Err(blocked("plan 01010101 does not hold any more:\n  the deployment file was changed"));
        }
        if request.text.contains("held") && !self.status().state.ended() {
            return Err(ApiError { held: Some("d12".to_owned()), ..blocked("d12 is not over").next("wait") });
        }
        Ok(Deployment { unchanged: request.text.contains("same") && !request.again, ..good })
    }

    /// One event per status.
    fn events(&mut self, after: u64) -> Events {
        self.seen = self.seen.max(after);
        let last = self.statuses.len() as u64;
        let ended = self.statuses.last().is_some_and(|status| status.state.ended()) && after + 1 >= last;
        let kind = if ended { EventKind::Ended } else { EventKind::Stage };
        let events = (after < last).then(|| sample::event(after + 1, kind, "it goes on"));
        self.seen = if ended { last } else { self.seen };
        Events { schema: EventsSchema::V1, events: events.into_iter().collect(), next: last.min(after + 1), ended }
    }
}

fn recipe_added(plain: &[u8]) -> Result<Done, ApiError> {
    let recipe = Recipe::decode(plain).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    Ok(done(format!("package {}", recipe.package()), vec![]))
}

fn log_lines() -> [LogLine; 2] {
    let line = |seq, node: &str, text: &str| LogLine {
        seq,
        time: sample::at(seq),
        node: node.to_owned(),
        step: "restart".to_owned(),
        attempt: 1,
        stream: Stream::Stdout,
        text: text.to_owned(),
    };
    [line(1, "syd-1", "Stopping acme-web"), line(2, "syd-2", "Started \u{1b}[1macme-web")]
}

fn new_token(request: &TokenRequest) -> NewToken {
    let token = Token {
        id: "t1".to_owned(),
        site: request.site.to_string(),
        roles: request.roles.iter().map(ToString::to_string).collect(),
        expires: sample::at(request.ttl_s),
        nodes: 0,
    };
    NewToken { schema: TokenSchema::V1, join: "shoal1:example".to_owned(), token }
}

fn done(message: String, nodes: Vec<String>) -> Done {
    Done { schema: DoneSchema::V1, message, nodes }
}

fn put<T>(reply: Reply<T>, answer: Result<T, ApiError>) {
    let _ = reply.send(answer);
}
