//! What the scheduler asks AWS itself: which instances an account has. Control plane only; it never reads a block.

use async_trait::async_trait;
use snapferry_api::instance::{Instance, InstanceVolume};
use snapferry_aws::ec2::{InstanceSummary, list_instances};
use snapferry_aws::{Account, Clients, SessionPurpose, SessionScope};
use snapferry_types::Region;
use snapferry_types::access::AccountAccess;
use thiserror::Error;

use crate::store::StoreError;

/// Instances in one answer; an account with more is asked for one region at a time.
const MAX_INSTANCES: usize = 20_000;

/// The region that no account can disable (outside China and GovCloud, where it answers nobody).
const EVERYWHERE: &str = "us-east-1";

/// An account that could not be looked at.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// How it is reached is not known.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// AWS refused or did not answer, in a sentence.
    #[error("{0}")]
    Aws(String),
}

/// Looks into accounts.
#[async_trait]
pub trait Discovery: Send + Sync {
    /// The instances of an account in the access's region.
    ///
    /// # Errors
    /// [`DiscoveryError::Aws`] with AWS's own reason.
    async fn instances(&self, access: &AccountAccess) -> Result<Vec<Instance>, DiscoveryError>;
}

/// Looks into AWS.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsDiscovery;

#[async_trait]
impl Discovery for AwsDiscovery {
    async fn instances(&self, access: &AccountAccess) -> Result<Vec<Instance>, DiscoveryError> {
        let failed = |error: snapferry_aws::AwsError| {
            DiscoveryError::Aws(format!("look into account {} in {}: {error}", access.account, access.region))
        };
        let purpose = SessionPurpose::named("discovery", SessionScope::Discover);
        let opened = Account::open_verified(Clients::of_process(), access, purpose, EVERYWHERE).await;
        let account = opened.map_err(failed)?;
        let mut instances = Vec::new();
        let mut page = None;
        loop {
            let found = list_instances(&account, page).await.map_err(failed)?;
            instances.extend(found.instances.into_iter().map(|one| view(one, &access.region)));
            page = found.next;
            if page.is_none() || instances.len() >= MAX_INSTANCES {
                return Ok(instances);
            }
        }
    }
}

fn view(summary: InstanceSummary, region: &Region) -> Instance {
    Instance {
        id: summary.instance,
        name: summary.name,
        region: region.clone(),
        availability_zone: summary.availability_zone,
        state: summary.state,
        instance_type: summary.instance_type,
        os: summary.os,
        volumes: summary
            .volumes
            .into_iter()
            .map(|id| InstanceVolume { id, device_name: None, size_gib: None })
            .collect(),
        tags: summary.tags,
    }
}
