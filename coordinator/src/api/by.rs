//! On whose behalf a request is made, and why: two headers that clients may send, for the audit log.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::{ApiError, ErrorCode};
use super::limits::TEXT_LEN_MAX;
use crate::trail::By;

/// Who asks, such as `ola@laptop`.
pub const OPERATOR_HEADER: &str = "shoal-operator";

/// Why, in the operator's words, as UTF-8.
pub const REASON_HEADER: &str = "shoal-reason";

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = |header: &str| {
            let Some(value) = parts.headers.get(header) else { return Ok(None) };
            let text = std::str::from_utf8(value.as_bytes()).ok().filter(|text| text.len() <= TEXT_LEN_MAX);
            let wrong = || format!("the header `{header}` is UTF-8 of at most {TEXT_LEN_MAX} bytes");
            let text = text.ok_or_else(|| ApiError::new(ErrorCode::BadRequest, wrong()))?;
            Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
        };
        let who = text(OPERATOR_HEADER)?.unwrap_or_else(|| "unnamed".to_owned());
        Ok(Self { who, reason: text(REASON_HEADER)? })
    }
}
