//! The clouds' services as a small HTTP server plays them, each asked the way that its environment variables say.

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

/// A request as it came.
#[derive(Clone, Debug)]
struct Seen {
    /// `GET /path?query`.
    line: String,
    /// By lower-case name.
    headers: BTreeMap<String, String>,
    body: String,
}

impl Seen {
    fn is(&self, line: &str, header: &str, value: &str) -> bool {
        self.line == line && self.headers.get(header).is_some_and(|found| found == value)
    }
}

/// A server until it is dropped, with what it was asked.
struct Cloud {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

impl Cloud {
    /// It answers 404 where `answer` has nothing.
    async fn start(answer: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(answer));
        let (log, mut tasks) = (Arc::clone(&seen), JoinSet::new());
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let mut socket = BufStream::new(socket);
                    while let Some(seen) = read(&mut socket).await {
                        log.lock().unwrap().push(seen.clone());
                        let (status, body) = answer(&seen).map_or_else(|| refusal(&seen), |body| ("200 OK", body));
                        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        let _ = socket.write_all(answer.as_bytes()).await;
                        let _ = socket.flush().await;
                    }
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }

    fn last_body(&self) -> String {
        self.seen.lock().unwrap().last().unwrap().body.clone()
    }
}

async fn read(socket: &mut BufStream<tokio::net::TcpStream>) -> Option<Seen> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: BTreeMap<_, _> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(n, v)| (n.to_lowercase(), v.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    let line = lines[0].trim_end_matches(" HTTP/1.1").to_owned();
    Some(Seen { line, headers, body: String::from_utf8(body).unwrap() })
}

/// Who may not sign, or be lent a key, is told so; all else is nowhere.
fn refusal(seen: &Seen) -> (&'static str, String) {
    match seen.line.contains(":signBlob") || seen.line.contains("userdelegationkey") {
        true => ("403 Forbidden", "it may not".into()),
        false => ("404 Not Found", "no such thing".into()),
    }
}

fn machine(variables: &[(&str, &str)]) -> Machine {
    Machine::with(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// A moment so many seconds from here, as clouds write it.
fn later(seconds: u64) -> String {
    super::super::objects::moment("%Y-%m-%dT%H:%M:%SZ", seconds)
}

fn lent(id: &str, seconds: u64) -> String {
    let end = later(seconds);
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"s3cret","Token":"s3ssion","Expiration":"{end}"}}"#
    )
}

#[tokio::test]
async fn a_machine_of_amazons_has_the_key_of_its_role_and_asks_again_before_it_ends() {
    // The first key ends soon, so that it is used for no second signature.
    let number = std::sync::atomic::AtomicU64::new(0);
    let cloud = Cloud::start(move |seen| {
        let token = ("x-aws-ec2-metadata-token", "imds-t0ken");
        if seen.is("PUT /latest/api/token", "x-aws-ec2-metadata-token-ttl-seconds", "300") {
            Some("imds-t0ken".into())
        } else if seen.is("GET /latest/meta-data/iam/security-credentials/", token.0, token.1) {
            Some("shoal-role\n".into())
        } else if seen.is("GET /latest/meta-data/iam/security-credentials/shoal-role", token.0, token.1) {
            let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Some(lent(&format!("ASIA{number}"), number * 3600))
        } else {
            None
        }
    })
    .await;
    let machine = machine(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &format!("{}/", cloud.url()))]);
    for id in ["ASIA0", "ASIA1", "ASIA1"] {
        let keys = machine.aws("eu-north-1").await.unwrap();
        assert_eq!((&*keys.id, &*keys.secret, keys.session.as_deref()), (id, "s3cret", Some("s3ssion")));
    }
    assert_eq!(cloud.asked().len(), 6, "the second key is kept");
    machine.forget();
    assert_eq!(machine.aws("eu-north-1").await.unwrap().id, "ASIA2", "somebody was refused with it");
    assert!(!format!("{machine:?}").contains("s3cret"));

    let off = super::tests::machine(&[("AWS_EC2_METADATA_DISABLED", "true")]);
    assert!(off.aws("").await.err().unwrap().contains("AWS_EC2_METADATA_DISABLED"));
}

#[tokio::test]
async fn a_container_or_a_pod_has_the_key_that_its_agent_lends() {
    let cloud = Cloud::start(|seen| {
        seen.is("GET /v2/credentials/abc", "authorization", "Bearer p0d").then(|| lent("ASIAPOD", 3600))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "Bearer p0d\n").unwrap();
    let url = format!("{}/v2/credentials/abc", cloud.url());
    let with = |token: (&str, &str)| machine(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url), token]);
    for token in [
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer p0d"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*path.to_string_lossy()),
    ] {
        assert_eq!(with(token).aws("").await.unwrap().id, "ASIAPOD");
    }
    let refused = with(("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong")).aws("").await.err().unwrap();
    assert_eq!(refused, format!("GET {url} answered 404: no such thing"));
    let elsewhere =
        machine(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://203.0.113.1/x")]).aws("").await.err().unwrap();
    assert!(elsewhere.contains("203.0.113.1 may not be told"), "{elsewhere}");
}

#[tokio::test]
async fn a_token_of_another_provider_is_changed_for_a_key_of_amazons() {
    let cloud = Cloud::start(|seen| {
        let right = seen.line == "POST /" && seen.body.contains("&WebIdentityToken=eyJ0%2Bx&") || seen.body.ends_with("&WebIdentityToken=eyJ0%2Bx");
        right.then(|| {
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleWithWebIdentityResult>\
                 <Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s3cret</SecretAccessKey><SessionToken>s3ssion\
                 </SessionToken><Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>",
                later(3600)
            )
        })
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "eyJ0+x\n").unwrap();
    let role = "arn:aws:iam::1:role/shoal";
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &*path.to_string_lossy()),
        ("AWS_ROLE_ARN", role),
        ("AWS_ENDPOINT_URL_STS", &cloud.url()),
    ];
    let keys = machine(&variables).aws("eu-north-1").await.unwrap();
    assert_eq!((&*keys.id, keys.session.as_deref()), ("ASIAWEB", Some("s3ssion")));
    assert!(cloud.last_body().starts_with(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fshoal&"
    ));
    std::fs::write(&path, "another").unwrap();
    let refused = machine(&variables).aws("eu-north-1").await.err().unwrap();
    assert!(refused.contains("answered 404: no such thing") && !refused.contains("another"), "{refused}");

    let environment = machine(&[("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s3cret")]);
    assert_eq!(environment.aws("").await.unwrap().id, "AKIA");
}

#[tokio::test]
async fn google_signs_for_a_machines_account() {
    let cloud = Cloud::start(|seen| {
        let of = |what: &str| format!("GET /computeMetadata/v1/instance/service-accounts/default/{what}");
        if seen.is(&of("token"), "metadata-flavor", "Google") {
            Some(r#"{"access_token":"ya29","expires_in":3599,"token_type":"Bearer"}"#.into())
        } else if seen.is(&of("email"), "metadata-flavor", "Google") {
            Some("shoal@acme.example\n".into())
        } else if seen.is(
            "POST /v1/projects/-/serviceAccounts/shoal@acme.example:signBlob",
            "authorization",
            "Bearer ya29",
        ) {
            let signed = if seen.body.contains(&STANDARD.encode("what is signed")) { "c2lnbmF0dXJl" } else { "" };
            Some(format!(r#"{{"keyId":"1","signedBlob":"{signed}"}}"#))
        } else {
            None
        }
    })
    .await;
    let override_ = "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS";
    let machine = machine(&[("GCE_METADATA_HOST", &cloud.address), (override_, &format!("{}/", cloud.url()))]);
    let account = machine.google_account().await.unwrap();
    assert_eq!(&*account, "shoal@acme.example");
    for _ in 0..2 {
        assert_eq!(machine.google_signature(&account, b"what is signed").await.unwrap(), b"signature");
    }
    assert_eq!(machine.google_account().await.unwrap(), account);
    assert_eq!(cloud.asked().len(), 4, "account and token are kept");
    let refused = machine.google_signature("other@acme.example", b"x").await.unwrap_err();
    assert!(
        refused.contains("needs the role Service Account Token Creator on itself") && !refused.contains("ya29"),
        "{refused}"
    );
    let none = super::tests::machine(&[("GCE_METADATA_HOST", "127.0.0.1:1")]).google_account().await.unwrap_err();
    assert!(none.contains("refused"), "the cause: {none}");
    assert!(none.ends_with("has this machine a service account?"), "{none}");
}

#[tokio::test]
async fn azures_identities_are_lent_a_key_by_the_store() {
    let store = |seen: &Seen| {
        let right = seen.is("POST /acme/?restype=service&comp=userdelegationkey", "authorization", "Bearer ey.J0")
            && seen.body.starts_with("<KeyInfo><Start>20");
        right.then(|| {
            format!(
                "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><UserDelegationKey><SignedOid>oid</SignedOid><SignedTid>tid</SignedTid>\
                 <SignedStart>{}</SignedStart><SignedExpiry>{}</SignedExpiry><SignedService>b</SignedService><SignedVersion>2022-11-02\
                 </SignedVersion><Value>a2V5</Value></UserDelegationKey>",
                later(0),
                later(7200)
            )
        })
    };
    let cloud = Cloud::start(move |seen| {
        let token =
            Some(r#"{"access_token":"ey.J0","expires_in":"3599","resource":"https://storage.azure.com/"}"#.to_owned());
        let query = "resource=https%3A%2F%2Fstorage.azure.com%2F";
        let kubernetes = "client_assertion=k8s-t0ken&scope=https%3A%2F%2Fstorage.azure.com%2F.default";
        match &*seen.line {
            line if line == format!("GET /metadata/identity/oauth2/token?api-version=2018-02-01&{query}") => {
                token.filter(|_| seen.headers["metadata"] == "true")
            }
            line if line == format!("GET /msi/token?api-version=2019-08-01&{query}&client_id=me") => {
                token.filter(|_| seen.headers["x-identity-header"] == "h3ader")
            }
            "POST /tenant/oauth2/v2.0/token" => token.filter(|_| seen.body.ends_with(kubernetes)),
            _ => store(seen),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "k8s-t0ken\n").unwrap();
    let (url, path) = (cloud.url(), path.to_string_lossy().into_owned());
    let machines = [
        machine(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &url)]),
        machine(&[
            ("IDENTITY_ENDPOINT", &format!("{url}/msi/token")),
            ("IDENTITY_HEADER", "h3ader"),
            ("AZURE_CLIENT_ID", "me"),
        ]),
        machine(&[
            ("AZURE_FEDERATED_TOKEN_FILE", &path),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "me"),
            ("AZURE_AUTHORITY_HOST", &format!("{url}/")),
        ]),
    ];
    let account = format!("{url}/acme/");
    for (number, machine) in machines.iter().enumerate() {
        for _ in 0..2 {
            let key = machine.azure(&account, None, "2022-11-02", Duration::from_secs(3600)).await.unwrap();
            assert_eq!(
                (&key.named[0], &key.named[5], &key.key[..]),
                (&"oid".to_owned(), &"2022-11-02".to_owned(), &b"key"[..])
            );
        }
        assert_eq!(cloud.asked().len(), 2 * (number + 1), "token and key are kept");
    }
    let refused =
        machines[0].azure(&format!("{url}/other/"), None, "2022-11-02", Duration::from_secs(60)).await.err().unwrap();
    assert!(refused.contains("needs the role Storage Blob Data Reader") && !refused.contains("ey.J0"), "{refused}");
}
