//! How requests reach S3: over connections of our own, signed with the credentials of the account's chain.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::client::{HttpClient, HttpConnector};
use object_store::{ClientOptions, CredentialProvider};

use crate::error::AwsError;
use crate::session::Account;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try of a request; a part of 64 MiB passes in it at 2 Mbit/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(270);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes connections, through the proxy of the environment unless the endpoint is this machine.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) is_this_machine: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        let builder = if self.is_this_machine { builder.no_proxy() } else { builder };
        let client = builder.build().map_err(|source| failed(Box::new(source)))?;
        Ok(HttpClient::new(client))
    }
}

/// The face of the chain to the store. Credentials that AWS ends early are renewed by
/// [`Account::call`], which every request goes through.
#[derive(Debug)]
pub(super) struct ChainCredentials(pub(super) Account);

impl ChainCredentials {
    pub(super) async fn now(account: &Account) -> Result<AwsCredential, AwsError> {
        let credentials = account.credentials().await?;
        Ok(AwsCredential {
            key_id: credentials.access_key_id().to_owned(),
            secret_key: credentials.secret_access_key().to_owned(),
            token: credentials.session_token().map(ToOwned::to_owned),
        })
    }
}

#[async_trait]
impl CredentialProvider for ChainCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let credential = Self::now(&self.0).await.map_err(|source| failed(Box::new(source)))?;
        Ok(Arc::new(credential))
    }
}

fn failed(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source }
}
