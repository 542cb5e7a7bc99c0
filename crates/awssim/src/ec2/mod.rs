//! EC2's query protocol, version 2016-11-15: the calls that backup and restore make. Each call demands its permission,
//! honours DryRun, and answers with AWS's own error codes.

mod attach;
mod codes;
mod encryption;
mod filter;
mod images;
mod import;
mod instances;
mod interfaces;
mod keys;
mod launch;
mod mapping;
mod network;
mod page;
mod power;
mod settle;
mod sharing;
mod snapshots;
mod tags;
mod types;
mod volumes;

use crate::faults::Refusal;
use crate::server::Context;
use crate::server::form::{Form, ec2_error};
use crate::server::xml::Xml;
use crate::store::StoreError;
use crate::world::{Asked, Caller};
pub(crate) use settle::resume_devices;

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// One call with all that its answer depends on.
pub(crate) struct Call<'a> {
    context: &'a Context,
    caller: &'a Caller,
    region: &'a str,
    action: &'a str,
    form: &'a Form,
}

/// Answers a call.
pub(crate) fn call(
    context: &Context,
    caller: &Caller,
    region: &str,
    action: &str,
    form: &Form,
) -> Result<String, Refusal> {
    // What is described has the state of now.
    crate::ebs::fail_expired(context);
    settle::settle(context);
    let call = Call { context, caller, region, action, form };
    match action {
        "DescribeRegions" => network::regions(&call),
        "DescribeAvailabilityZones" => network::zones(&call),
        "DescribeVpcs" => network::vpcs(&call),
        "DescribeSubnets" => network::subnets(&call),
        "DescribeSecurityGroups" => network::groups(&call),
        "DescribeNetworkInterfaces" => network::interfaces(&call),
        "GetEbsEncryptionByDefault" => encryption::by_default(&call),
        "EnableEbsEncryptionByDefault" => encryption::set_by_default(&call, true),
        "DisableEbsEncryptionByDefault" => encryption::set_by_default(&call, false),
        "GetEbsDefaultKmsKeyId" => encryption::default_key(&call),
        "ModifyEbsDefaultKmsKeyId" => encryption::set_default_key(&call),
        "ResetEbsDefaultKmsKeyId" => encryption::reset_default_key(&call),
        "DescribeInstances" => instances::describe(&call),
        "DescribeInstanceAttribute" => instances::describe_attribute(&call),
        "ModifyInstanceAttribute" => instances::modify_attribute(&call),
        "DescribeInstanceTypes" => types::describe(&call),
        "CreateKeyPair" => keys::create(&call),
        "DescribeKeyPairs" => keys::describe(&call),
        "DeleteKeyPair" => keys::delete(&call),
        "RunInstances" => launch::run(&call),
        "StartInstances" => power::change(&call, power::Change::Start),
        "StopInstances" => power::change(&call, power::Change::Stop),
        "TerminateInstances" => power::change(&call, power::Change::Terminate),
        "CreateVolume" => volumes::create(&call),
        "DescribeVolumes" => volumes::describe(&call),
        "DescribeVolumeAttribute" => codes::of_volume(&call),
        "DeleteVolume" => volumes::delete(&call),
        "AttachVolume" => attach::attach(&call),
        "DetachVolume" => attach::detach(&call),
        "CreateSnapshot" => snapshots::create(&call),
        "CreateSnapshots" => snapshots::create_of_instance(&call),
        "DescribeSnapshots" => snapshots::describe(&call),
        "DeleteSnapshot" => snapshots::delete(&call),
        "CopySnapshot" => snapshots::copy(&call),
        "ModifySnapshotAttribute" => sharing::modify(&call),
        "DescribeSnapshotAttribute" => sharing::describe(&call),
        "RegisterImage" => images::register(&call),
        "DescribeImages" => images::describe(&call),
        "DeregisterImage" => images::deregister(&call),
        "ImportSnapshot" => import::create(&call),
        "DescribeImportSnapshotTasks" => import::describe(&call),
        "CancelImportTask" => import::cancel(&call),
        "CreateTags" => tags::create(&call),
        "DeleteTags" => tags::delete(&call),
        "DescribeTags" => tags::describe(&call),
        other => {
            Err(ec2_error("InvalidAction", format!("The action {other} is not valid for this web service.")))
        }
    }
}

impl Call<'_> {
    /// The answer's document.
    fn reply(&self, fill: impl FnOnce(&mut Xml)) -> String {
        Xml::document(&format!("{}Response", self.action), NAMESPACE, |xml| {
            xml.text("requestId", format!("{:032x}", rand::random::<u128>()));
            fill(xml);
        })
    }

    /// The answer of a call that says only that it worked.
    fn done(&self) -> String {
        self.reply(|xml| xml.text("return", true))
    }

    /// Demands the permission, and that to tag what is made; with DryRun nothing more happens.
    fn permit(&self, asked: &Asked) -> Result<(), Refusal> {
        self.caller.demand(asked)?;
        self.permit_tags()?;
        if self.form.flag("DryRun") {
            return Err(ec2_error(
                "DryRunOperation",
                "Request would have succeeded, but DryRun flag is set.",
            ));
        }
        Ok(())
    }

    /// A call that makes something with tags is a CreateTags too, told apart by what it comes with.
    fn permit_tags(&self) -> Result<(), Refusal> {
        for one in self.form.structures("TagSpecification") {
            let kind = one.text("ResourceType").unwrap_or_default();
            let owner = if matches!(kind, "snapshot" | "image") { "" } else { self.account() };
            let resource = format!("arn:aws:ec2:{}:{owner}:{kind}/*", self.region);
            let mut asked = Asked::new("ec2:CreateTags", resource)
                .with("ec2:Region", self.region)
                .with("ec2:CreateAction", self.action);
            for (key, value) in tags::pairs(&one, "Tag") {
                asked = asked.with(&format!("aws:RequestTag/{key}"), value).with("aws:TagKeys", key);
            }
            self.caller.demand(&asked)?;
        }
        Ok(())
    }

    /// [`Self::permit`] for a call about no resource in particular.
    fn permit_any(&self) -> Result<(), Refusal> {
        self.permit(&self.asked("*"))
    }

    /// The question to the policies, with the tags that the request sets.
    fn asked(&self, resource: &str) -> Asked {
        let mut asked = Asked::new(format!("ec2:{}", self.action), resource).with("ec2:Region", self.region);
        for (key, value) in tags::all_requested(self.form) {
            asked = asked.with(&format!("aws:RequestTag/{key}"), value).with("aws:TagKeys", key);
        }
        asked
    }

    /// [`Self::asked`] of a resource that exists, with its tags.
    fn asked_of(&self, kind: &str, id: &str, tags: &std::collections::BTreeMap<String, String>) -> Asked {
        let owner = if kind == "snapshot" || kind == "image" { "" } else { self.caller.account.as_str() };
        let mut asked = self.asked(&format!("arn:aws:ec2:{}:{owner}:{kind}/{id}", self.region));
        for (key, value) in tags {
            asked = asked
                .with(&format!("aws:ResourceTag/{key}"), value)
                .with(&format!("ec2:ResourceTag/{key}"), value);
        }
        asked
    }

    fn account(&self) -> &str {
        &self.caller.account
    }

    fn token_scope(&self) -> String {
        format!("{}/{}/{}", self.caller.account, self.region, self.action)
    }

    fn now_ms(&self) -> u64 {
        self.context.world.now_ms()
    }
}

/// A store error in EC2's words.
fn store_error(error: &StoreError) -> Refusal {
    ec2_error("InternalError", format!("The block store failed to {error}"))
}

/// A time as EC2 writes it.
fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()).unwrap_or_default()
}
