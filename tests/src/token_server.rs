//! A server that lends tokens of a registry, as docker's token authentication has it: signed claims (JWT) about who may do what
//! in which repository, which the registry checks by a certificate. It speaks TLS, and so has the registry: passwords are sent
//! nowhere else.
//!
//! Protocol: <https://distribution.github.io/distribution/spec/auth/token/>.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::SignatureScheme;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::Credentials;
use crate::origin::tls::{self, Certificate};
use crate::request::Request;

/// Who lends, as registries know it.
const ISSUER: &str = "token-server";

/// What the registry calls itself.
const SERVICE: &str = "registry";

/// A running server. It runs until the test's process ends.
pub struct TokenServer {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    wants: Credentials,
    tls: Certificate,
    /// By what tokens are signed.
    certificate: rcgen::Certificate,
    key: Arc<dyn rustls::sign::SigningKey>,
    lent: AtomicU64,
}

impl TokenServer {
    /// Starts a server that lends to who comes with `wants`.
    pub fn start(wants: Credentials) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let made = rcgen::generate_simple_self_signed([ISSUER.to_owned()]).expect("it is a good name");
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.key_pair.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).expect("the key is of ECDSA");
        let (tls, certificate, lent) = (Certificate::make(), made.cert, AtomicU64::new(0));
        let shared = Arc::new(Shared { address, wants, tls, certificate, key, lent });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                // What goes wrong on a connection is the client's to notice.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        Self { shared }
    }

    /// The `auth` of a registry's configuration that sends clients here; it needs [`Self::registry_files`].
    pub fn registry_auth(&self) -> String {
        let Shared { address, .. } = &*self.shared;
        format!(
            "auth: {{ token: {{ realm: 'https://{address}/token', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: \
             FOLDER/ca.pem }} }}"
        )
    }

    /// What a registry has in its folder: by what it knows tokens, and who it is itself.
    pub fn registry_files(&self) -> [(&'static str, String); 3] {
        let Shared { tls, certificate, .. } = &*self.shared;
        [("ca.pem", certificate.pem()), ("tls.pem", tls.pem().to_owned()), ("tls.key", tls.key_pem().to_owned())]
    }

    /// By what this server and such a registry are known, in PEM.
    pub fn ca_pem(&self) -> &str {
        self.shared.tls.pem()
    }

    /// How many tokens were lent to clients.
    pub fn lent(&self) -> u64 {
        self.shared.lent.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(tls::accept(self.tls.config(), stream)?);
        while let Some(request) = Request::read(&mut reader)? {
            let (status, body) = match self.wants.are(request.authorization.as_deref()) {
                true => ("200 OK", json!({ "token": self.token(&access(&request.query)), "expires_in": 300 })),
                false => ("401 Unauthorized", json!({})),
            };
            if status.starts_with("200") {
                self.lent.fetch_add(1, Ordering::Relaxed);
            }
            let body = body.to_string();
            write!(reader.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        }
        Ok(())
    }

    /// Claims and their signature (RFC 7519).
    fn token(&self, access: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.certificate.der())] });
        let claims = json!({ "iss": ISSUER, "sub": self.wants.user, "aud": SERVICE, "jti": now.to_string(),
                             "exp": now + 300, "nbf": now - 5, "iat": now, "access": access });
        let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signer = self.key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).expect("the key is of P-256");
        let der = signer.sign(text.as_bytes()).expect("the key signs");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(plain_signature(&der)))
    }
}

/// What is asked for: `scope=repository:acme/web:pull`, its colons and slashes perhaps escaped.
fn access(query: &str) -> Value {
    let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
    let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    match scope.split(':').collect::<Vec<_>>()[..] {
        // Nobody who reads may write.
        ["repository", name, actions] if actions.split(',').any(|action| action == "pull") => {
            json!([{ "type": "repository", "name": name, "actions": ["pull"] }])
        }
        _ => json!([]),
    }
}

/// A signature of ECDSA as JWT has it (RFC 7518, 3.4): both numbers in 32 bytes each, of what is a sequence in DER.
fn plain_signature(der: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(64);
    let mut rest = &der[2..];
    for _ in 0..2 {
        let (number, more) = rest[2..].split_at(usize::from(rest[1]));
        let number = &number[number.len().saturating_sub(32)..];
        plain.resize(plain.len() + 32 - number.len(), 0);
        plain.extend_from_slice(number);
        rest = more;
    }
    plain
}
