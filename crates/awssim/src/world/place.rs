//! Putting an instance with blank volumes into an account, as set-up for tests and demonstrations: no image is needed.

use super::new_id;
use super::resource::{Attachment, Instance, Interface, Marks, Tags, Volume};
use crate::server::Context;
use crate::store::StoreError;

const GIB: u64 = 1 << 30;

/// What was placed.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The instance.
    pub instance: String,
    /// Its volumes, root first.
    pub volumes: Vec<String>,
}

impl Context {
    /// Places a running instance with volumes of these sizes in GiB: the root, then data volumes of alternating
    /// types, each with tags of its own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn place_instance(
        &self,
        account: &str,
        region: &str,
        name: &str,
        platform: Option<&str>,
        sizes_gib: &[u64],
    ) -> Result<Placed, StoreError> {
        self.place_instance_in(account, &format!("{region}a"), name, platform, sizes_gib)
    }

    /// As [`Context::place_instance`], in a zone such as `eu-central-1b`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn place_instance_in(
        &self,
        account: &str,
        zone: &str,
        name: &str,
        platform: Option<&str>,
        sizes_gib: &[u64],
    ) -> Result<Placed, StoreError> {
        self.world.create_account(account);
        let now = self.world.now_ms();
        let instance_id = new_id("i");
        let region = zone.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let zone = zone.to_owned();
        let root = if platform.is_some() { "/dev/sda1" } else { "/dev/xvda" };
        let mut volumes = Vec::new();
        for (n, size_gib) in sizes_gib.iter().enumerate() {
            let is_root = n == 0;
            let letter = u8::try_from(n).map_or('z', |n| char::from(b'e' + n.min(20)));
            let is_provisioned = n % 2 == 1;
            let volume = Volume {
                id: new_id("vol"),
                account: account.to_owned(),
                region: region.to_owned(),
                zone: zone.clone(),
                size_gib: *size_gib,
                kind: "gp3".to_owned(),
                iops: Some(if is_provisioned { 4_000 } else { 3_000 }),
                throughput: Some(if is_provisioned { 200 } else { 125 }),
                encrypted: false,
                kms_key: None,
                snapshot: None,
                tags: Tags::from([
                    ("Name".to_owned(), format!("{name}-{n}")),
                    ("cost-centre".to_owned(), format!("{}", 4_000 + n)),
                ]),
                created_ms: now,
                ready_ms: now,
                attachment: Some(Attachment {
                    instance: instance_id.clone(),
                    device: if is_root { root.to_owned() } else { format!("/dev/sd{letter}") },
                    delete_on_termination: is_root,
                    since_ms: now,
                    ready_ms: now,
                    gone_ms: None,
                    link: None,
                }),
                marks: Marks::default(),
            };
            self.store.create_volume(&volume.id, size_gib * GIB)?;
            volumes.push(volume);
        }
        let placed = Placed {
            instance: instance_id.clone(),
            volumes: volumes.iter().map(|volume| volume.id.clone()).collect(),
        };
        self.world.change(|state| {
            let subnet = state.subnets.values_mut().find(|one| one.account == account && one.zone == zone);
            let (subnet, vpc, private_ip) = subnet.map_or_else(Default::default, |subnet| {
                subnet.last_host += 1;
                (subnet.id.clone(), subnet.vpc.clone(), format!("{}.{}", subnet.prefix, subnet.last_host))
            });
            let groups =
                state.groups.values().filter(|one| one.vpc == vpc).map(|one| one.id.clone()).collect();
            for volume in volumes {
                state.volumes.insert(volume.id.clone(), volume);
            }
            let instance = Instance {
                id: instance_id.clone(),
                account: account.to_owned(),
                region: region.to_owned(),
                zone: zone.clone(),
                instance_type: "m6i.large".to_owned(),
                image: None,
                platform: platform.map(str::to_owned),
                architecture: "x86_64".to_owned(),
                boot_mode: Some("uefi".to_owned()),
                ena_support: true,
                key_name: Some("operations".to_owned()),
                iam_profile_arn: Some(format!("arn:aws:iam::{account}:instance-profile/{name}")),
                ebs_optimized: true,
                tenancy: "default".to_owned(),
                placement_group: None,
                root_device: root.to_owned(),
                interfaces: vec![Interface {
                    id: new_id("eni"),
                    device_index: 0,
                    subnet,
                    vpc,
                    private_ip,
                    groups,
                    delete_on_termination: true,
                }],
                tags: Tags::from([
                    ("Name".to_owned(), name.to_owned()),
                    ("environment".to_owned(), "production".to_owned()),
                ]),
                launched_ms: now,
                target: "running".to_owned(),
                ready_ms: now,
                marks: Marks::default(),
                state_reason: None,
            };
            state.instances.insert(instance_id, instance);
        });
        Ok(placed)
    }
}

impl super::World {
    /// Makes a volume one of another type, such as `gp2`; false when there is none of this id.
    #[must_use]
    pub fn retype(&self, volume: &str, kind: &str, iops: Option<u32>, throughput: Option<u32>) -> bool {
        self.change(|state| {
            let Some(volume) = state.volumes.get_mut(volume) else { return false };
            (volume.kind, volume.iops, volume.throughput) = (kind.to_owned(), iops, throughput);
            true
        })
    }

    /// Tags of a volume.
    #[must_use]
    pub fn volume_tags(&self, id: &str) -> Option<Tags> {
        self.read().volumes.get(id).map(|volume| volume.tags.clone())
    }
}
