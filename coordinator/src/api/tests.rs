//! The API over a real loopback listener, with a played driver behind it.

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::fake::{Fake, TOKEN};
use super::types::*;
use super::*;

async fn call(fake: &Fake, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let client = Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method, format!("{}{path}", fake.url)).bearer_auth(TOKEN);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn only_the_right_token_gets_in() {
    let fake = Fake::start(vec![sample::succeeded()]).await;
    let client = Client::builder().no_proxy().build().unwrap();
    for header in [None, Some("Bearer wrong"), Some("Basic YTpi"), Some(TOKEN)] {
        let mut request = client.get(format!("{}/v1/nodes", fake.url));
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{header:?}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        let error: ApiError = response.json().await.unwrap();
        assert_eq!(error.code, ErrorCode::NotAllowed);
        assert!(error.next.unwrap().contains("admin.token"));
    }
    let unknown_page = client.get(format!("{}/nothing", fake.url)).send().await.unwrap();
    assert_eq!(unknown_page.status(), StatusCode::UNAUTHORIZED, "strangers learn nothing of the routes");
    let (status, nodes) = call(&fake, Method::GET, "/v1/nodes", None).await;
    assert_eq!((status, &nodes["schema"]), (StatusCode::OK, &json!("shoal.nodes/v1")));
    assert_eq!(nodes["nodes"][1]["online"], json!(false));
}

#[tokio::test]
async fn refusals_are_documents_with_a_code() {
    let fake = Fake::start(vec![sample::succeeded()]).await;
    let token = |field: &str, value: Value| {
        let mut body = json!({ "site": "syd", "ttl_s": 60 });
        body[field] = value;
        body
    };
    let cases = [
        (Method::GET, "/v1/deployments/12", None, StatusCode::BAD_REQUEST, "bad-request"),
        (Method::GET, "/v1/deployments/d99", None, StatusCode::NOT_FOUND, "not-found"),
        (Method::GET, "/v1/deployments/d12/logs?after=x", None, StatusCode::BAD_REQUEST, "bad-request"),
        (Method::GET, "/v1/deployments/d12/logs?node=../x", None, StatusCode::BAD_REQUEST, "bad-request"),
        (Method::GET, "/v1/elsewhere", None, StatusCode::NOT_FOUND, "not-found"),
        (Method::DELETE, "/v1/nodes", None, StatusCode::NOT_FOUND, "not-found"),
        (Method::POST, "/v1/deployments", Some(json!({ "file": "x" })), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::POST, "/v1/tokens", Some(token("ttl_s", json!(0))), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::POST, "/v1/tokens", Some(token("site", json!("a b"))), StatusCode::BAD_REQUEST, "bad-request"),
        (Method::POST, "/v1/tokens", Some(token("rols", json!([]))), StatusCode::BAD_REQUEST, "bad-request"),
        (
            Method::POST,
            "/v1/tokens",
            Some(token("roles", json!(vec!["r"; 17]))),
            StatusCode::BAD_REQUEST,
            "bad-request",
        ),
    ];
    for (method, path, body, status, code) in cases {
        let (got, error) = call(&fake, method, path, body.clone()).await;
        assert_eq!((got, &error["code"]), (status, &json!(code)), "{path} {body:?}");
        assert_eq!(error["schema"], json!("shoal.error/v1"));
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let fake = Fake::start(vec![sample::succeeded()]).await;
    let body = json!({ "file": "x", "text": "y".repeat(limits::BODY_BYTES_MAX) });
    let (status, error) = call(&fake, Method::POST, "/v1/deployments", Some(body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(error["message"].as_str().unwrap().contains("4194304 bytes"), "{error}");
}

#[tokio::test]
async fn a_status_is_completed_and_can_be_brief() {
    let fake = Fake::start(vec![sample::failed()]).await;
    let (_, full) = call(&fake, Method::GET, "/v1/deployments/latest", None).await;
    assert_eq!(full["nodes"].as_array().unwrap().len(), 8);
    assert_eq!(full["summary"]["schema"], json!("shoal.summary/v1"));
    let (_, brief) = call(&fake, Method::GET, "/v1/deployments/d12?brief=true", None).await;
    assert_eq!(brief["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(brief["summary"], full["summary"], "being brief loses no failure");
    let restart = json!({ "name": "restart", "phase": "steps", "pending": 0, "running": 0, "done": 7, "failed": 1 });
    assert_eq!(brief["steps"][1], restart);
}

#[tokio::test]
async fn operators_reach_the_driver() {
    let mut fake = Fake::start(vec![sample::paused()]).await;
    let retry = json!({ "action": "answer", "answer": "retry", "node": "syd-2" });
    let (status, done) = call(&fake, Method::POST, "/v1/deployments/d12/operator", Some(retry)).await;
    assert_eq!((status, &done["nodes"]), (StatusCode::OK, &json!(["syd-2"])));
    let node = Some("syd-2".parse().unwrap());
    let (action, _) = fake.actions.recv().await.unwrap();
    assert_eq!(action, Action::Answer { answer: Answer::Retry, node, step: None });
    let (status, _) =
        call(&fake, Method::POST, "/v1/deployments/d12/operator", Some(json!({ "action": "explode" }))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_stopping_driver_is_said_and_the_server_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/nodes", listener.local_addr().unwrap());
    let (commands, inbox) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, AdminToken::new(TOKEN), commands, async {
        let _ = stopped.await;
    }));
    drop(inbox);
    let client = Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.json::<ApiError>().await.unwrap().code, ErrorCode::Unavailable);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
