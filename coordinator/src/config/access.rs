//! Who asks at one place of a feed, and by what the place is known: keys of `[[feed]]`, and of each of its `mirrors`.
//!
//! Secrets are not here but in the files, environment variables or roles that it names.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::{Wrong, at};
use crate::feeds::Kind;

/// How a place is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Who asks.
    pub credentials: Option<Credentials>,
    /// Certificates in PEM of private authorities that vouch for it.
    pub ca_file: Option<PathBuf>,
    /// In which region of a cloud it is, where signatures need that.
    pub region: Option<String>,
}

/// Who asks, and where the secret is that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name; none for a token that stands for itself.
    pub username: Option<String>,
    /// Where the password or token is.
    pub secret: SecretAt,
}

/// Where a secret is. It is read when it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretAt {
    /// Alone in a file; a line end behind it does not count.
    File(PathBuf),
    /// In an environment variable of the coordinator.
    Env(String),
    /// With the cloud that the coordinator's machine is in, which lends to the machine's role.
    Role,
}

/// The keys as they were written.
pub(super) struct RawAccess {
    pub(super) username: Option<Spanned<String>>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) password_env: Option<Spanned<String>>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
    pub(super) token_env: Option<Spanned<String>>,
    pub(super) machine_role: Option<Spanned<bool>>,
    pub(super) ca_file: Option<Spanned<PathBuf>>,
    pub(super) region: Option<Spanned<String>>,
}

/// A table with these keys beside its own.
macro_rules! with_access {
    ($(#[$meta:meta])* $visible:vis struct $name:ident { $($see:vis $key:ident: $kind:ty,)+ }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        $visible struct $name {
            $($see $key: $kind,)+
            username: Option<toml::Spanned<String>>,
            password_file: Option<toml::Spanned<std::path::PathBuf>>,
            password_env: Option<toml::Spanned<String>>,
            token_file: Option<toml::Spanned<std::path::PathBuf>>,
            token_env: Option<toml::Spanned<String>>,
            machine_role: Option<toml::Spanned<bool>>,
            ca_file: Option<toml::Spanned<std::path::PathBuf>>,
            region: Option<toml::Spanned<String>>,
        }

        impl $name {
            fn access(&self) -> $crate::config::access::RawAccess {
                $crate::config::access::RawAccess {
                    username: self.username.clone(),
                    password_file: self.password_file.clone(),
                    password_env: self.password_env.clone(),
                    token_file: self.token_file.clone(),
                    token_env: self.token_env.clone(),
                    machine_role: self.machine_role.clone(),
                    ca_file: self.ca_file.clone(),
                    region: self.region.clone(),
                }
            }
        }
    };
}
pub(super) use with_access;

/// A key that says where a secret is.
struct SecretKey {
    name: &'static str,
    span: Range<usize>,
    at: SecretAt,
    /// Whether a `username` stands beside it: it must, may or must not.
    username: Option<bool>,
}

impl Access {
    /// The same, with what it lacks taken from `other`.
    pub(super) fn or(self, other: &Self) -> Self {
        Self {
            credentials: self.credentials.or_else(|| other.credentials.clone()),
            ca_file: self.ca_file.or_else(|| other.ca_file.clone()),
            region: self.region.or_else(|| other.region.clone()),
        }
    }
}

impl RawAccess {
    /// What the keys of `whose` mean, such as of "feed `main`".
    pub(super) fn check(&self, whose: &str, kind: &Kind, folder: &Path) -> Result<Access, Wrong> {
        Ok(Access {
            credentials: self.credentials(whose, kind, folder)?,
            ca_file: self.ca_file.as_ref().map(|path| folder.join(path.get_ref())),
            region: self.region.as_ref().map(|region| region.get_ref().clone()),
        })
    }

    /// One of the keys that is there.
    pub(super) fn any(&self) -> Option<(&'static str, Range<usize>)> {
        let spans = [
            ("username", self.username.as_ref().map(Spanned::span)),
            ("ca_file", self.ca_file.as_ref().map(Spanned::span)),
            ("region", self.region.as_ref().map(Spanned::span)),
        ];
        let found = spans.into_iter().find_map(|(key, span)| Some((key, span?)));
        found.or_else(|| self.secrets(Path::new("")).into_iter().next().map(|key| (key.name, key.span)))
    }

    fn secrets(&self, folder: &Path) -> Vec<SecretKey> {
        let file = |name, path: &Option<Spanned<PathBuf>>, username| {
            let path = path.as_ref()?;
            Some(SecretKey { name, span: path.span(), at: SecretAt::File(folder.join(path.get_ref())), username })
        };
        let variable = |name, text: &Option<Spanned<String>>, username| {
            let text = text.as_ref()?;
            Some(SecretKey { name, span: text.span(), at: SecretAt::Env(text.get_ref().clone()), username })
        };
        let role = self.machine_role.as_ref().filter(|role| *role.get_ref());
        let role = role.map(|role| SecretKey {
            name: "machine_role",
            span: role.span(),
            at: SecretAt::Role,
            // The account that it is used on, where its name is not that of the host.
            username: None,
        });
        [
            file("token_file", &self.token_file, Some(false)),
            file("password_file", &self.password_file, Some(true)),
            variable("token_env", &self.token_env, Some(false)),
            variable("password_env", &self.password_env, Some(true)),
            role,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn credentials(&self, whose: &str, kind: &Kind, folder: &Path) -> Result<Option<Credentials>, Wrong> {
        let mut secrets = self.secrets(folder);
        if let [one, other, ..] = &secrets[..] {
            let problem = format!("{whose} has both `{}` and `{}`", one.name, other.name);
            return Err((Some(one.span.clone()), problem));
        }
        let Some(key) = secrets.pop() else {
            return match &self.username {
                Some(username) => Err(at(username, format!("{whose} has a `username` but no `password_file`"))),
                None => Ok(None),
            };
        };
        match &self.username {
            _ if key.at == SecretAt::Role && !kind.signs => {
                let problem =
                    format!("a feed of kind `{}` is not of a cloud, so that `machine_role` has no effect", kind.name);
                Err((Some(key.span), problem))
            }
            None if key.username == Some(true) => {
                Err((Some(key.span), format!("{whose} has a `{}` but no `username`", key.name)))
            }
            Some(username) if key.username == Some(false) => {
                Err(at(username, format!("{whose} has a `{}`, with which `username` has no effect", key.name)))
            }
            // Basic authentication cannot carry a colon in the name (RFC 7617, 2).
            Some(username) if username.get_ref().contains([':', '\n', '\r']) => {
                Err(at(username, format!("{whose} has a `username` with a colon or a line end")))
            }
            username => Ok(Some(Credentials {
                username: username.as_ref().map(|username| username.get_ref().clone()),
                secret: key.at,
            })),
        }
    }
}
