//! What requests carry, with refusals in the API's own form instead of axum's plain text.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use shoal_proto::limits::RECIPE_BYTES_MAX;

use super::error::{ApiError, ErrorCode};
use super::limits::BODY_BYTES_MAX;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(JsonRejection::BytesRejection(error)) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the request's body is over {BODY_BYTES_MAX} bytes");
                Err(ApiError::new(ErrorCode::BadRequest, message).next("keep large scripts in a package"))
            }
            Err(error) => Err(ApiError::new(ErrorCode::BadRequest, error.body_text())),
        }
    }
}

/// The plain form of a recipe, as it is.
pub(super) struct RecipeBytes(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for RecipeBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let whole = Bytes::from_request(request, state).await;
        whole.map(Self).map_err(|error| {
            let message = match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => format!("a recipe has at most {RECIPE_BYTES_MAX} bytes"),
                _ => error.body_text(),
            };
            ApiError::new(ErrorCode::BadRequest, message)
        })
    }
}

/// The part of the URL after `?`.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let parsed: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        parsed.map(|Query(value)| Self(value)).map_err(|error| ApiError::new(ErrorCode::BadRequest, error.body_text()))
    }
}

impl ErrorCode {
    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotAllowed => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::Blocked => StatusCode::CONFLICT,
            Self::Integrity => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::BAD_GATEWAY,
            Self::Other => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(&self)).into_response();
        if self.code == ErrorCode::NotAllowed {
            response.headers_mut().insert(WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
