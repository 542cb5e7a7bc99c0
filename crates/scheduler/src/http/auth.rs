//! Who calls, and what the token allows. A tenant's token belongs to one hypervisor; everything else does not exist
//! for it.

use aws_lc_rs::constant_time;
use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use secrecy::ExposeSecret as _;
use snapferry_api::ProblemCode;
use snapferry_service::secret::SecretError;
use snapferry_types::HypervisorId;
use thiserror::Error;

use super::Api;
use super::problem::Refusal;
use crate::config::{TokenConfig, TokenRole};

const SHORTEST_TOKEN: usize = 16;

/// Tokens that cannot be used.
#[derive(Debug, Error)]
pub enum TokensError {
    /// The secret is not there.
    #[error("token {name:?}: {source}")]
    Secret {
        /// Of the token.
        name: String,
        /// Why.
        source: SecretError,
    },
    /// The secret can be guessed.
    #[error(
        "token {name:?} has fewer than {SHORTEST_TOKEN} characters; make one with `openssl rand -hex 32`"
    )]
    Short {
        /// Of the token.
        name: String,
    },
}

/// The tokens of the configuration, by their SHA-256.
#[derive(Debug)]
pub struct Tokens(Vec<Known>);

#[derive(Debug)]
struct Known {
    sha256: Vec<u8>,
    name: String,
    role: TokenRole,
    hypervisor: Option<String>,
}

impl Tokens {
    /// Reads the secrets.
    ///
    /// # Errors
    /// [`TokensError`], naming the token.
    pub fn read(configs: &[TokenConfig]) -> Result<Self, TokensError> {
        let read = |config: &TokenConfig| {
            let name = config.name.clone();
            let secret =
                config.secret.read().map_err(|source| TokensError::Secret { name: name.clone(), source })?;
            let secret = secret.expose_secret();
            if secret.len() < SHORTEST_TOKEN {
                return Err(TokensError::Short { name });
            }
            Ok(Known {
                sha256: digest(&SHA256, secret.as_bytes()).as_ref().to_vec(),
                name,
                role: config.role,
                hypervisor: config.hypervisor.clone(),
            })
        };
        configs.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn find(&self, token: &str) -> Option<&Known> {
        let sha256 = digest(&SHA256, token.as_bytes());
        // Every token is compared, in constant time: how long it takes says nothing.
        self.0.iter().fold(None, |found, known| {
            let same = constant_time::verify_slices_are_equal(&known.sha256, sha256.as_ref()).is_ok();
            if same { Some(known) } else { found }
        })
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) name: String,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Operator,
    Viewer,
    Tenant(HypervisorId),
}

impl Caller {
    /// The one hypervisor that exists for this caller; `None`: all do.
    pub(super) const fn only(&self) -> Option<HypervisorId> {
        match self.role {
            Role::Operator | Role::Viewer => None,
            Role::Tenant(id) => Some(id),
        }
    }

    /// Whether a thing of this hypervisor exists for the caller.
    pub(super) fn sees(&self, hypervisor: HypervisorId) -> bool {
        self.only().is_none_or(|only| only == hypervisor)
    }

    /// Refuses who may not ask for work.
    pub(super) fn may_work(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Operator | Role::Tenant(_) => Ok(()),
            Role::Viewer => Err(self.forbidden("a viewer changes nothing")),
        }
    }

    /// Refuses who is no operator.
    pub(super) fn may_operate(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Viewer | Role::Tenant(_) => Err(self.forbidden("only an operator may do this")),
        }
    }

    /// Refuses tenants.
    pub(super) fn may_see_fleet(&self) -> Result<(), Refusal> {
        match self.role {
            Role::Operator | Role::Viewer => Ok(()),
            Role::Tenant(_) => Err(self.forbidden("the service account's machines are not shown to tenants")),
        }
    }

    fn forbidden(&self, why: &str) -> Refusal {
        Refusal::new(ProblemCode::Forbidden, format!("token {:?}: {why}", self.name))
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        if api.tokens.0.is_empty() {
            return Ok(Self { name: "local".to_owned(), role: Role::Operator });
        }
        let refuse = |detail: &str| Refusal::new(ProblemCode::Unauthenticated, detail);
        let token = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| refuse("send the header Authorization: Bearer <token>"))?;
        let known = api.tokens.find(token).ok_or_else(|| refuse("nobody has this token"))?;
        let role = match known.role {
            TokenRole::Operator => Role::Operator,
            TokenRole::Viewer => Role::Viewer,
            TokenRole::Tenant => {
                let named = known.hypervisor.clone().unwrap_or_default();
                let id = match named.parse() {
                    Ok(id) => Some(id),
                    Err(_) => api.store.hypervisor_named(&named).await?.map(|found| found.id),
                };
                let id = id.ok_or_else(|| {
                    Refusal::new(
                        ProblemCode::Forbidden,
                        format!(
                            "token {:?} is for hypervisor {named:?}, which is not registered",
                            known.name
                        ),
                    )
                })?;
                Role::Tenant(id)
            }
        };
        Ok(Self { name: known.name.clone(), role })
    }
}
