//! What a test's server wants, and what it does wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::store::Store;

/// A user's name and password, for Basic authentication.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub user: &'static str,
    /// The password.
    pub password: &'static str,
}

impl Credentials {
    /// Whether a request with this `Authorization` carries them (RFC 7617).
    pub(crate) fn are(&self, authorization: Option<&str>) -> bool {
        let wanted = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)));
        authorization == Some(wanted.as_str())
    }
}

/// What the server wants, and what it does wrong; by default nothing.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// The byte at this offset is another one.
    pub flip: Option<usize>,
    /// A request for a range is answered with the whole file.
    pub ignore_ranges: bool,
    /// Requests without these credentials are answered with 401.
    pub wants: Option<Credentials>,
    /// Requests without this token are answered with 401.
    pub token: Option<&'static str>,
    /// Requests without the token that is good at the moment are answered with 401 and where to ask for it.
    pub bearer: bool,
    /// Requests whose URL this store did not sign, or not for so long, are answered with 403.
    pub store: Option<Store>,
    /// Bytes per second of all connections together.
    pub rate: Option<u64>,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// With which requests it does, counted from 0.
    pub when: fn(u64) -> bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            flip: None,
            ignore_ranges: false,
            wants: None,
            token: None,
            bearer: false,
            store: None,
            rate: None,
            fault: None,
            when: |_| true,
        }
    }
}

impl Behaviour {
    /// A server that does `fault` with the requests that `when` says.
    pub fn faulty(fault: Fault, when: fn(u64) -> bool) -> Self {
        Self { fault: Some(fault), when, ..Self::default() }
    }
}

/// One way to misbehave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of a body.
    Truncate(usize),
    /// Nothing more comes after so many bytes of a body.
    Stall(usize),
    /// The range that comes is said to be another one.
    WrongRange,
    /// Another status, and perhaps when to ask again, in seconds.
    Status(u16, Option<u64>),
    /// The file is at another place: this URL, with its name behind it.
    Redirect(String),
    /// The same where bytes are asked for (`application/octet-stream`), as GitHub does; other requests are answered here.
    RedirectBytes(String),
    /// The body is said to be compressed.
    Gzip,
    /// HTTP/1.0 without a length: the body ends with the connection.
    NoLength,
    /// The validator is a weak one, which does not promise the same bytes.
    WeakEtag,
    /// There is no validator.
    NoEtag,
}
