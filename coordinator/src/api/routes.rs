//! The routes: from a request to a [`Command`] and from its answer to a response.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use shoal_proto::id::{DeploymentId, Name};
use shoal_proto::limits::RECIPE_BYTES_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::command::{Command, Cursor, LogFilter, Reply};
use super::error::{ApiError, ErrorCode};
use super::extract::{Body, Params, RecipeBytes};
use super::limits::{
    ADVERTISED_MAX, ANSWER_TIMEOUT, BODY_BYTES_MAX, DEPLOY_ANSWER_TIMEOUT, ROLES_MAX, TEXT_LEN_MAX, TOKEN_TTL_S_MAX,
    WAIT_MS_MAX,
};
use super::token::AdminToken;
use super::types::{
    Action, AllowRequest, Audit, AuditVerdict, DeployRequest, Deployment, Deployments, Done, Events, FeedTest,
    FeedTestRequest, Feeds, FreezeRequest, LimitRequest, Logs, NewToken, Nodes, Plan, Sites, Status, ThawRequest,
    TokenRequest, Tokens, WayBack,
};

use crate::trail::By;

type Answer<T> = Result<Json<T>, ApiError>;

/// The way to the driver.
#[derive(Clone)]
pub(super) struct Driver(mpsc::Sender<Command>);

pub(super) fn router(token: AdminToken, commands: mpsc::Sender<Command>) -> Router {
    Router::new()
        .route("/v1/tokens", get(tokens).post(create_token))
        .route("/v1/tokens/{id}", delete(revoke_token))
        .route("/v1/audit", get(audit))
        .route("/v1/audit/verify", get(verify_audit))
        .route("/v1/nodes", get(nodes))
        .route("/v1/sites", get(sites))
        .route("/v1/sites/{name}/limit", post(limit_site))
        .route("/v1/freeze", post(freeze))
        .route("/v1/thaw", post(thaw))
        .route("/v1/feeds", get(feeds))
        .route("/v1/feeds/{name}/test", post(test_feed))
        .route("/v1/recipes", post(add_recipe).layer(DefaultBodyLimit::max(RECIPE_BYTES_MAX)))
        .route("/v1/plans", post(plan))
        .route("/v1/deployments", get(deployments).post(deploy))
        .route("/v1/deployments/{id}", get(status))
        .route("/v1/deployments/{id}/logs", get(logs))
        .route("/v1/deployments/{id}/events", get(events))
        .route("/v1/deployments/{id}/operator", post(operator))
        .route("/v1/deployments/{id}/way-back", get(way_back))
        .route("/v1/deployments/{id}/allow", post(allow))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_page)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(token, check_token))
        .with_state(Driver(commands))
}

/// Runs before anything of the request but its head is looked at.
async fn check_token(State(token): State<AdminToken>, request: Request, next: Next) -> Result<Response, ApiError> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let message = match given {
        Some((_, given)) if token.matches(given.trim()) => return Ok(next.run(request).await),
        Some(_) => "the bearer token is not this coordinator's",
        None => "the request carries no bearer token",
    };
    let next = "pass the coordinator's <data_dir>/admin.token: --token-file FILE, SHOAL_TOKEN_FILE or SHOAL_TOKEN";
    Err(ApiError::new(ErrorCode::NotAllowed, message).next(next))
}

async fn no_such_page(uri: Uri) -> (StatusCode, ApiError) {
    let message = format!("this coordinator's API has no such request: {}", uri.path());
    let next = "compare the versions of `shoal` here and on the coordinator";
    (StatusCode::NOT_FOUND, ApiError::new(ErrorCode::NotFound, message).next(next))
}

impl Driver {
    async fn ask<T>(&self, limit: Duration, command: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
        let stopping = || ApiError::new(ErrorCode::Unavailable, "the coordinator is stopping").next("try again");
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.0.send(command(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        let late = |_| {
            let message = format!("the coordinator did not answer within {} s", limit.as_secs());
            ApiError::new(ErrorCode::Unavailable, message).next("look at the log of `shoal serve`")
        };
        timeout(limit, exchange).await.map_err(late)?.map(Json)
    }
}

async fn create_token(State(driver): State<Driver>, by: By, Body(request): Body<TokenRequest>) -> Answer<NewToken> {
    check(request.roles.len() <= ROLES_MAX, || format!("a join string has at most {ROLES_MAX} roles"))?;
    check(request.advertise.len().max(request.advertise_bulk.len()) <= ADVERTISED_MAX, || {
        format!("a join string has at most {ADVERTISED_MAX} addresses")
    })?;
    request.advertise.iter().chain(&request.advertise_bulk).try_for_each(|address| check_len("an address", address))?;
    let days = TOKEN_TTL_S_MAX / 86_400;
    check((1..=TOKEN_TTL_S_MAX).contains(&request.ttl_s), || format!("a join string lives 1 second to {days} days"))?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::CreateToken { request, by, reply }).await
}

async fn tokens(State(driver): State<Driver>) -> Answer<Tokens> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::ListTokens { reply }).await
}

async fn revoke_token(State(driver): State<Driver>, by: By, Path(id): Path<String>) -> Answer<Done> {
    check_len("a token's id", &id)?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::RevokeToken { id, by, reply }).await
}

#[derive(Deserialize)]
struct AuditParams {
    #[serde(default)]
    count: u32,
}

async fn audit(State(driver): State<Driver>, Params(params): Params<AuditParams>) -> Answer<Audit> {
    let count = usize::try_from(params.count).unwrap_or(usize::MAX);
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Audit { count, reply }).await
}

#[derive(Deserialize)]
struct VerifyParams {
    head: Option<String>,
}

async fn verify_audit(State(driver): State<Driver>, Params(params): Params<VerifyParams>) -> Answer<AuditVerdict> {
    let known = params.head.map(|head| head.parse()).transpose();
    let known = known.map_err(|error: String| ApiError::new(ErrorCode::BadRequest, error))?;
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::VerifyAudit { known, reply }).await
}

async fn nodes(State(driver): State<Driver>) -> Answer<Nodes> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Nodes { reply }).await
}

async fn sites(State(driver): State<Driver>) -> Answer<Sites> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Sites { reply }).await
}

async fn limit_site(
    State(driver): State<Driver>,
    by: By,
    Path(name): Path<String>,
    Body(request): Body<LimitRequest>,
) -> Answer<Done> {
    let site = Name::new(name).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::LimitSite { site, request, by, reply }).await
}

async fn freeze(State(driver): State<Driver>, by: By, Body(request): Body<FreezeRequest>) -> Answer<Done> {
    check_len("a reason", &request.reason)?;
    check(!request.reason.trim().is_empty(), || "a freeze says why".to_owned())?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Freeze { request, by, reply }).await
}

async fn thaw(State(driver): State<Driver>, by: By, Body(request): Body<ThawRequest>) -> Answer<Done> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Thaw { request, by, reply }).await
}

async fn feeds(State(driver): State<Driver>) -> Answer<Feeds> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Feeds { reply }).await
}

async fn test_feed(
    State(driver): State<Driver>,
    Path(name): Path<String>,
    Body(request): Body<FeedTestRequest>,
) -> Answer<FeedTest> {
    let feed = Name::new(name).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::TestFeed { feed, request, reply }).await
}

async fn add_recipe(State(driver): State<Driver>, by: By, RecipeBytes(plain): RecipeBytes) -> Answer<Done> {
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::AddRecipe { plain, by, reply }).await
}

async fn plan(State(driver): State<Driver>, Body(request): Body<DeployRequest>) -> Answer<Box<Plan>> {
    check_len("a file's name", &request.file)?;
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::Plan { request, reply }).await
}

async fn deploy(State(driver): State<Driver>, by: By, Body(request): Body<DeployRequest>) -> Answer<Deployment> {
    check_len("a file's name", &request.file)?;
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::Deploy { request, by, reply }).await
}

async fn deployments(State(driver): State<Driver>) -> Answer<Deployments> {
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Deployments { reply }).await
}

#[derive(Deserialize)]
struct StatusParams {
    #[serde(default)]
    brief: bool,
}

async fn status(
    State(driver): State<Driver>,
    Path(id): Path<String>,
    Params(params): Params<StatusParams>,
) -> Answer<Status> {
    let id = if id == "latest" { None } else { Some(parse_id(&id)?) };
    let Json(status) = driver.ask(ANSWER_TIMEOUT, |reply| Command::Status { id, reply }).await?;
    Ok(Json(status.completed(params.brief)))
}

#[derive(Deserialize)]
struct CursorParams {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

impl CursorParams {
    /// The cursor, and how long the driver may take in all.
    fn limits(&self) -> (Cursor, Duration) {
        let wait = Duration::from_millis(self.wait_ms.min(WAIT_MS_MAX));
        (Cursor { after: self.after, wait }, ANSWER_TIMEOUT + wait)
    }
}

#[derive(Deserialize)]
struct LogParams {
    node: Option<Name>,
    step: Option<Name>,
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_ms: u64,
}

async fn logs(State(driver): State<Driver>, Path(id): Path<String>, Params(params): Params<LogParams>) -> Answer<Logs> {
    let id = parse_id(&id)?;
    let (cursor, limit) = CursorParams { after: params.after, wait_ms: params.wait_ms }.limits();
    let filter = LogFilter { node: params.node, step: params.step };
    driver.ask(limit, |reply| Command::Logs { id, filter, cursor, reply }).await
}

async fn events(
    State(driver): State<Driver>,
    Path(id): Path<String>,
    Params(params): Params<CursorParams>,
) -> Answer<Events> {
    let id = parse_id(&id)?;
    let (cursor, limit) = params.limits();
    driver.ask(limit, |reply| Command::Events { id, cursor, reply }).await
}

async fn operator(
    State(driver): State<Driver>,
    by: By,
    Path(id): Path<String>,
    Body(action): Body<Action>,
) -> Answer<Done> {
    let id = parse_id(&id)?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Operator { id, action, by, reply }).await
}

async fn way_back(State(driver): State<Driver>, Path(id): Path<String>) -> Answer<WayBack> {
    let id = parse_id(&id)?;
    driver.ask(DEPLOY_ANSWER_TIMEOUT, |reply| Command::WayBack { id, reply }).await
}

async fn allow(
    State(driver): State<Driver>,
    by: By,
    Path(id): Path<String>,
    Body(request): Body<AllowRequest>,
) -> Answer<Done> {
    let id = parse_id(&id)?;
    check(request.bytes > 0, || "0 bytes allow nothing".to_owned())?;
    driver.ask(ANSWER_TIMEOUT, |reply| Command::Allow { id, request, by, reply }).await
}

fn parse_id(text: &str) -> Result<DeploymentId, ApiError> {
    check_len("a deployment's id", text)?;
    text.parse().map_err(|error: shoal_proto::id::IdError| ApiError::new(ErrorCode::BadRequest, error.to_string()))
}

fn check_len(what: &str, text: &str) -> Result<(), ApiError> {
    check(text.len() <= TEXT_LEN_MAX, || format!("{what} has at most {TEXT_LEN_MAX} bytes"))
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), ApiError> {
    if holds { Ok(()) } else { Err(ApiError::new(ErrorCode::BadRequest, message())) }
}
