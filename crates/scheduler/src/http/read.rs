//! Reading requests: ids in paths, queries and JSON bodies, each refused with a sentence.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use snapferry_api::ProblemCode;
use snapferry_api::page::{DEFAULT_LIMIT, MAX_LIMIT};

use super::MAX_BODY;
use super::problem::Refusal;

/// The id in the path.
pub(super) struct Id<T>(pub(super) T);

impl<S: Send + Sync, T: FromStr<Err: std::fmt::Display>> FromRequestParts<S> for Id<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|error| Refusal::invalid(error.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| Refusal::invalid(error.to_string()))
    }
}

/// The query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Query::<T>::from_request_parts(parts, state)
            .await
            .map(|Query(query)| Self(query))
            .map_err(|error| Refusal::invalid(error.body_text()))
    }
}

/// The JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        Json::<T>::from_request(request, state).await.map(|Json(body)| Self(body)).map_err(|rejection| {
            let code = match (&rejection, rejection.status().as_u16()) {
                (_, 413) => {
                    let detail =
                        format!("the body is larger than {} MiB; ask for less at a time", MAX_BODY >> 20);
                    return Refusal::new(ProblemCode::TooLarge, detail);
                }
                (JsonRejection::MissingJsonContentType(_), _) => ProblemCode::UnsupportedMediaType,
                _ => ProblemCode::InvalidRequest,
            };
            Refusal::new(code, rejection.body_text())
        })
    }
}

/// The page size that was asked for.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Refusal> {
    let limit = asked.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit);
    }
    Err(Refusal::invalid(format!("limit is {limit}; it must be 1 to {MAX_LIMIT}")))
}

/// A cursor is the id of the last item; anything else would silently begin somewhere.
pub(super) fn cursor<T: FromStr<Err: std::fmt::Display>>(after: Option<&String>) -> Result<(), Refusal> {
    match after.map(|text| text.parse::<T>()) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(Refusal::invalid(format!("after: {error}"))),
    }
}
