//! Join strings: made, listed, revoked.

use std::str::FromStr;

use shoal_proto::coordinator::Input;
use shoal_proto::directory::{self, DirectoryRecord};
use shoal_proto::join::JoinString;
use shoal_proto::time::WallTime;

use super::Server;
use crate::api::types::{Done, DoneSchema, NewToken, Token, TokenRequest, TokenSchema, Tokens, TokensSchema};
use crate::api::{ApiError, ErrorCode};

impl Server {
    pub(super) fn create_token(&mut self, request: TokenRequest) -> Result<NewToken, ApiError> {
        let mut secret = [0; 32];
        if let Err(error) = getrandom::fill(&mut secret) {
            return Err(ApiError::new(ErrorCode::Failed, format!("no randomness for a secret: {error}")));
        }
        let id = self.core.directory().next_token();
        let expires = WallTime(self.now().wall.0.saturating_add(request.ttl_s.saturating_mul(1000)));
        let addresses = match (request.advertise.is_empty(), self.config.mesh_advertise.is_empty()) {
            (false, _) => request.advertise.clone(),
            (true, false) => self.config.mesh_advertise.clone(),
            (true, true) => self.control_addresses.iter().map(ToString::to_string).collect(),
        };
        let join = JoinString {
            coordinator: self.node_id(),
            addresses,
            site: request.site.clone(),
            token: id,
            secret,
            expires,
        };
        let join = join.to_text().map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string()))?;
        let token = directory::Token {
            id,
            secret_hash: *blake3::hash(&secret).as_bytes(),
            site: request.site,
            roles: request.roles,
            expires,
            coordinator_bulk: request.advertise_bulk,
        };
        self.handle(Input::Directory(DirectoryRecord::TokenCreated(token.clone())));
        Ok(NewToken { schema: TokenSchema::V1, join, token: self.token(&token) })
    }

    pub(super) fn list_tokens(&self) -> Tokens {
        let now = self.now().wall;
        let valid = self.core.directory().tokens().filter(|token| token.expires >= now);
        Tokens { schema: TokensSchema::V1, tokens: valid.map(|token| self.token(token)).collect() }
    }

    fn token(&self, token: &directory::Token) -> Token {
        let joined = self.core.directory().members().filter(|member| member.membership.token == token.id);
        Token {
            id: format!("t{}", token.id),
            site: token.site.to_string(),
            roles: token.roles.iter().map(ToString::to_string).collect(),
            expires: token.expires.into(),
            nodes: u32::try_from(joined.count()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn revoke_token(&mut self, text: &str) -> Result<Done, ApiError> {
        let known = |id: &u64| self.core.directory().tokens().any(|token| token.id == *id);
        let id = text.strip_prefix('t').and_then(|digits| u64::from_str(digits).ok()).filter(known);
        let Some(token) = id else {
            let error = ApiError::new(ErrorCode::NotFound, format!("there is no token `{text}`"));
            return Err(error.next("list them with `shoal token ls`"));
        };
        self.handle(Input::Directory(DirectoryRecord::TokenRevoked { token }));
        let message = format!("token {text} is revoked; nodes that joined with it stay");
        Ok(Done { schema: DoneSchema::V1, message, nodes: Vec::new() })
    }
}
