//! Signing in: the first signature, then each role in turn. The outcome is kept until shortly before it expires;
//! when AWS says earlier that it expired, it is dropped and made anew, once for all callers.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use secrecy::ExposeSecret;
use snapferry_types::access::AssumeRole;
use tokio::sync::Semaphore;

use crate::calls::CallCounter;
use crate::error::{Asked, AwsError};
use crate::session::purpose::SessionPurpose;

/// What we ask for; the most that a chained session gets.
const SESSION_SECONDS: i32 = 3_600;
/// Renewed this long before the end, or a fifth of the lifetime if that is shorter.
const RENEW_BEFORE: Duration = Duration::from_secs(300);

/// Credentials of one account, renewed as they age.
pub(crate) struct CredentialChain {
    base: SharedCredentialsProvider,
    roles: Vec<AssumeRole>,
    purpose: SessionPurpose,
    config: SdkConfig,
    calls: CallCounter,
    cached: RwLock<Option<Cached>>,
    turn: Semaphore,
}

#[derive(Clone)]
struct Cached {
    credentials: Credentials,
    renew_at: Option<SystemTime>,
    generation: u64,
}

impl std::fmt::Debug for CredentialChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialChain").field("roles", &self.roles).finish_non_exhaustive()
    }
}

impl CredentialChain {
    pub(crate) fn new(
        base: SharedCredentialsProvider,
        roles: Vec<AssumeRole>,
        purpose: SessionPurpose,
        config: SdkConfig,
        calls: CallCounter,
    ) -> Self {
        Self { base, roles, purpose, config, calls, cached: RwLock::new(None), turn: Semaphore::new(1) }
    }

    /// Makes sure that the credentials are usable, and says which generation they are.
    pub(crate) async fn ready(&self) -> Result<u64, AwsError> {
        self.usable().await.map(|cached| cached.generation)
    }

    /// Credentials that are usable now.
    pub(crate) async fn credentials(&self) -> Result<Credentials, AwsError> {
        self.usable().await.map(|cached| cached.credentials)
    }

    /// Drops the credentials of a generation that AWS called expired; later generations stay.
    pub(crate) fn drop_generation(&self, generation: u64) {
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = cached.as_mut().filter(|held| held.generation == generation) {
            held.renew_at = Some(SystemTime::UNIX_EPOCH);
        }
    }

    fn held(&self) -> Option<Cached> {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn usable(&self) -> Result<Cached, AwsError> {
        if let Some(held) = self.held().filter(Cached::is_usable) {
            return Ok(held);
        }
        let _turn = self.turn.acquire().await.map_err(|_| AwsError::Cancelled)?;
        let held = self.held();
        if let Some(held) = held.clone().filter(Cached::is_usable) {
            return Ok(held);
        }
        let generation = held.map_or(0, |held| held.generation.wrapping_add(1));
        let credentials = self.sign_in().await?;
        let fresh = Cached { renew_at: credentials.expiry().map(renew_at), credentials, generation };
        *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(fresh.clone());
        Ok(fresh)
    }

    async fn sign_in(&self) -> Result<Credentials, AwsError> {
        let mut credentials =
            self.base.provide_credentials().await.map_err(|error| AwsError::BadCredentials {
                code: "NoCredentials".to_owned(),
                message: format!("{}", aws_smithy_types::error::display::DisplayErrorContext(&error)),
            })?;
        let last = self.roles.len().saturating_sub(1);
        for (position, role) in self.roles.iter().enumerate() {
            let policy = if position == last { self.purpose.session_policy() } else { None };
            credentials = self.assume(credentials, role, policy).await?;
        }
        Ok(credentials)
    }

    async fn assume(
        &self,
        with: Credentials,
        role: &AssumeRole,
        policy: Option<String>,
    ) -> Result<Credentials, AwsError> {
        let asked = Asked::new("sts:AssumeRole", "role", &role.role_arn);
        let config = aws_sdk_sts::config::Builder::from(&self.config)
            .credentials_provider(SharedCredentialsProvider::new(with))
            .identity_cache(IdentityCache::no_cache())
            .interceptor(self.calls.clone())
            .build();
        let reply = aws_sdk_sts::Client::from_conf(config)
            .assume_role()
            .role_arn(&role.role_arn)
            .role_session_name(self.purpose.session_name())
            .set_external_id(role.external_id.as_ref().map(|id| id.expose_secret().to_owned()))
            .set_policy(policy)
            .duration_seconds(SESSION_SECONDS)
            .send()
            .await
            .map_err(|error| match asked.sort(&error) {
                AwsError::AccessDenied { message, .. } => {
                    AwsError::RoleRefused { role_arn: role.role_arn.clone(), message }
                }
                other => other,
            })?;
        let session = reply.credentials.ok_or_else(|| asked.lacks("Credentials"))?;
        let expires = SystemTime::try_from(session.expiration)
            .map_err(|_| asked.lacks("an Expiration that is a time"))?;
        Ok(Credentials::new(
            session.access_key_id,
            session.secret_access_key,
            Some(session.session_token),
            Some(expires),
            "snapferry-assume-role",
        ))
    }
}

impl Cached {
    fn is_usable(&self) -> bool {
        self.renew_at.is_none_or(|at| SystemTime::now() < at)
    }
}

/// When credentials that end at `expires` are renewed.
fn renew_at(expires: SystemTime) -> SystemTime {
    let lifetime = expires.duration_since(SystemTime::now()).unwrap_or_default();
    expires.checked_sub(RENEW_BEFORE.min(lifetime / 5)).unwrap_or(expires)
}

/// The face of the chain to the SDK.
#[derive(Debug, Clone)]
pub(crate) struct ChainProvider(pub(crate) std::sync::Arc<CredentialChain>);

impl ProvideCredentials for ChainProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            match self.0.usable().await {
                Ok(cached) => Ok(cached.credentials),
                Err(error) => Err(CredentialsError::provider_error(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_the_end_also_for_short_sessions() {
        let now = SystemTime::now();
        let hour = renew_at(now + Duration::from_secs(3_600));
        assert!(hour <= now + Duration::from_secs(3_301));
        let short = renew_at(now + Duration::from_secs(10));
        assert!(short > now + Duration::from_secs(7) && short < now + Duration::from_secs(9));
    }
}
