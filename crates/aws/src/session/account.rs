//! One account in one region, signed in to.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::{BehaviorVersion, Region as SdkRegion, SdkConfig};
use aws_credential_types::Credentials as SdkCredentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_ec2::config::StalledStreamProtectionConfig;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::timeout::TimeoutConfig;
use aws_types::service_config::ServiceConfigKey;
use secrecy::ExposeSecret;
use snapferry_types::access::SignIn;
use snapferry_types::{AccountAccess, AccountId, Region};

use crate::calls::CallCounter;
use crate::ec2::region_exists;
use crate::error::{Asked, AwsError};
use crate::session::chain::{ChainProvider, CredentialChain};
use crate::session::clients::Clients;
use crate::session::purpose::SessionPurpose;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try of a control-plane call; describing thousands of things takes seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of a control-plane call by the SDK, with its own full-jitter back-off.
const SDK_ATTEMPTS: u32 = 5;

/// One account in one region, signed in to. Clones share credentials, connections and counters.
#[derive(Debug, Clone)]
pub struct Account {
    inner: Arc<Inner>,
}

struct Inner {
    account: AccountId,
    region: Region,
    chain: Arc<CredentialChain>,
    calls: CallCounter,
    clients: Clients,
    endpoint_url: Option<String>,
    s3_endpoint_url: Option<String>,
    ec2: aws_sdk_ec2::Client,
    ebs: aws_sdk_ebs::Client,
    kms: aws_sdk_kms::Client,
    sts: aws_sdk_sts::Client,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("account", &self.account)
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// Signs in with the connections and quotas of this process. Assumes the roles; [`Account::verify`] checks
    /// whose account it is.
    ///
    /// # Errors
    /// [`AwsError`]: no credentials, a refused key, a role that cannot be assumed.
    pub async fn open(access: &AccountAccess, purpose: SessionPurpose) -> Result<Self, AwsError> {
        Self::open_with(Clients::of_process(), access, purpose).await
    }

    /// Signs in with given connections and quotas.
    ///
    /// # Errors
    /// See [`Account::open`].
    pub async fn open_with(
        clients: &Clients,
        access: &AccountAccess,
        purpose: SessionPurpose,
    ) -> Result<Self, AwsError> {
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(SdkRegion::new(access.region.as_str().to_owned()))
            .http_client(clients.http_for(access.endpoint_url.as_deref()))
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            );
        if let Some(url) = &access.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let SignIn::AccessKey(key) = &access.sign_in {
            loader = loader.credentials_provider(SdkCredentials::new(
                &key.access_key_id,
                key.secret_access_key.expose_secret(),
                None,
                None,
                "snapferry-access-key",
            ));
        }
        let config = loader.load().await;
        let http = clients.http_for(config.endpoint_url());
        let config = config.into_builder().http_client(http).build();
        let base = config.credentials_provider().ok_or_else(|| AwsError::BadCredentials {
            code: "NoCredentials".to_owned(),
            message: "this machine has no credentials of its own".to_owned(),
        })?;
        let calls = CallCounter::default();
        let chain = Arc::new(CredentialChain::new(
            base,
            access.roles.clone(),
            purpose,
            config.clone(),
            calls.clone(),
        ));
        chain.ready().await?;
        let config = config
            .into_builder()
            .credentials_provider(SharedCredentialsProvider::new(ChainProvider(Arc::clone(&chain))))
            .identity_cache(IdentityCache::no_cache())
            .build();
        let ec2 = aws_sdk_ec2::config::Builder::from(&config).interceptor(calls.clone()).build();
        let kms = aws_sdk_kms::config::Builder::from(&config).interceptor(calls.clone()).build();
        let sts = aws_sdk_sts::config::Builder::from(&config).interceptor(calls.clone()).build();
        // Block calls are retried in one place, ours, which also has their deadlines.
        let ebs = aws_sdk_ebs::config::Builder::from(&config)
            .interceptor(calls.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Ok(Self {
            inner: Arc::new(Inner {
                account: access.account.clone(),
                region: access.region.clone(),
                chain,
                calls,
                clients: clients.clone(),
                endpoint_url: config.endpoint_url().map(ToOwned::to_owned),
                s3_endpoint_url: s3_endpoint_url(&config, access.endpoint_url.as_deref()),
                ec2: aws_sdk_ec2::Client::from_conf(ec2),
                ebs: aws_sdk_ebs::Client::from_conf(ebs),
                kms: aws_sdk_kms::Client::from_conf(kms),
                sts: aws_sdk_sts::Client::from_conf(sts),
            }),
        })
    }

    /// Signs in and checks whose account it is: [`Account::open_with`], then [`Account::verify`]. Where the region does
    /// not answer, the region `known`, which should, is asked whether it is one of the account at all.
    ///
    /// # Errors
    /// [`AwsError::NoSuchRegion`]; those of the two steps.
    pub async fn open_verified(
        clients: &Clients,
        access: &AccountAccess,
        purpose: SessionPurpose,
        known: &str,
    ) -> Result<Self, AwsError> {
        let silence = match Self::open_and_verify(clients, access, purpose.clone()).await {
            Err(silence @ AwsError::Unavailable { .. }) if access.region.as_str() != known => silence,
            opened_or_refused => return opened_or_refused,
        };
        // What cannot be asked either explains nothing.
        let Ok(known) = known.parse() else { return Err(silence) };
        let there = AccountAccess { region: known, ..access.clone() };
        let Ok(there) = Self::open_with(clients, &there, purpose).await else { return Err(silence) };
        match region_exists(&there, &access.region).await {
            Ok(false) => Err(AwsError::NoSuchRegion {
                region: access.region.to_string(),
                account: access.account.to_string(),
            }),
            Ok(true) | Err(_) => Err(silence),
        }
    }

    async fn open_and_verify(
        clients: &Clients,
        access: &AccountAccess,
        purpose: SessionPurpose,
    ) -> Result<Self, AwsError> {
        let account = Self::open_with(clients, access, purpose).await?;
        account.verify().await?;
        Ok(account)
    }

    /// Checks with GetCallerIdentity that the credentials belong to the account they are registered for.
    ///
    /// # Errors
    /// [`AwsError::WrongAccount`], or what the call failed with.
    pub async fn verify(&self) -> Result<(), AwsError> {
        let asked = Asked::new("sts:GetCallerIdentity", "account", self.account().as_str());
        let reply = self
            .call(|| async {
                self.inner.sts.get_caller_identity().send().await.map_err(|error| asked.sort(&error))
            })
            .await?;
        let found = reply.account.ok_or_else(|| asked.lacks("Account"))?;
        if found == self.account().as_str() {
            return Ok(());
        }
        Err(AwsError::WrongAccount { expected: self.account().to_string(), found })
    }

    /// The account as registered.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.inner.account
    }

    /// The region of all calls.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.inner.region
    }

    /// What was sent so far.
    #[must_use]
    pub fn calls(&self) -> &CallCounter {
        &self.inner.calls
    }

    pub(crate) fn clients(&self) -> &Clients {
        &self.inner.clients
    }

    pub(crate) fn ec2(&self) -> &aws_sdk_ec2::Client {
        &self.inner.ec2
    }

    pub(crate) fn ebs(&self) -> &aws_sdk_ebs::Client {
        &self.inner.ebs
    }

    pub(crate) fn kms(&self) -> &aws_sdk_kms::Client {
        &self.inner.kms
    }

    /// The endpoint that stands for all of AWS, where one does.
    pub(crate) fn endpoint_url(&self) -> Option<&str> {
        self.inner.endpoint_url.as_deref()
    }

    /// The endpoint that stands for S3, where one does.
    pub(crate) fn s3_endpoint_url(&self) -> Option<&str> {
        self.inner.s3_endpoint_url.as_deref()
    }

    /// Credentials that are good now, for requests that no SDK client makes.
    pub(crate) async fn credentials(&self) -> Result<SdkCredentials, AwsError> {
        self.inner.chain.credentials().await
    }

    /// Runs a call with credentials that are good, and once more with new ones when AWS says that they expired.
    pub(crate) async fn call<T, F, Fut>(&self, mut attempt: F) -> Result<T, AwsError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, AwsError>>,
    {
        let generation = self.inner.chain.ready().await?;
        match attempt().await {
            Err(AwsError::Expired { .. }) => {
                self.inner.chain.drop_generation(generation);
                self.inner.chain.ready().await?;
                self.inner.calls.count_retry();
                attempt().await
            }
            Err(error @ AwsError::Throttled { .. }) => {
                self.inner.calls.count_throttle();
                Err(error)
            }
            other => other,
        }
    }

    /// [`Account::call`] for calls that have no client token: only a throttle, which AWS answers before it acts, is
    /// tried again.
    pub(crate) async fn call_without_token<T, F, Fut>(&self, mut attempt: F) -> Result<T, AwsError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, AwsError>>,
    {
        let mut pause = Duration::from_millis(500);
        for _ in 1..SDK_ATTEMPTS {
            match self.call(&mut attempt).await {
                Err(AwsError::Throttled { .. }) => {
                    self.inner.calls.count_retry();
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.1..1.0))).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
        self.call(attempt).await
    }
}

/// The endpoint of S3, found as the SDK's own clients find theirs: the one given, that of the service in the
/// environment or profile (`AWS_ENDPOINT_URL_S3`), the general one.
fn s3_endpoint_url(config: &SdkConfig, given: Option<&str>) -> Option<String> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    let key =
        ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let of_service = key.ok().and_then(|key| config.service_config()?.load_config(key));
    of_service.or_else(|| config.endpoint_url().map(ToOwned::to_owned))
}
