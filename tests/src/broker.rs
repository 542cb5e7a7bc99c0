//! The broker of a rig.

use anyhow::{Result, bail};
use snapferry_testkit::{Broker, VirtualHost};

/// A virtual host of the broker that the run shares, or a broker of its own.
#[derive(Debug)]
pub enum TestBroker {
    /// Of the shared one.
    Shared(VirtualHost),
    /// Its own, because there is none to share.
    Alone(Box<Broker>),
    /// Its own, as it was asked for.
    Own(Box<Broker>),
}

impl TestBroker {
    /// Makes a virtual host where the run has a broker and none of its own is asked for; starts one otherwise.
    ///
    /// # Errors
    /// What did not start.
    pub async fn start(is_own: bool) -> Result<Self> {
        if is_own {
            return Ok(Self::Own(Box::new(Broker::start().await?)));
        }
        Ok(match VirtualHost::make()? {
            Some(host) => Self::Shared(host),
            None => Self::Alone(Box::new(Broker::start().await?)),
        })
    }

    /// Its address, with the credentials and the virtual host.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Shared(host) => host.url(),
            Self::Alone(broker) | Self::Own(broker) => broker.url(),
        }
    }

    /// The broker that only this test has.
    ///
    /// # Errors
    /// When it was not asked for.
    pub fn own(&mut self) -> Result<&mut Broker> {
        match self {
            Self::Shared(_) | Self::Alone(_) => {
                bail!("others may have this broker, too: ask for one of its own (`own_broker`)")
            }
            Self::Own(broker) => Ok(broker),
        }
    }
}
