//! What EC2 refuses of tags.

use crate::client::{Client, OWNER, REGION, Sim};

/// `Tag.N.Key` and `Tag.N.Value` for these keys.
fn tags(keys: &[String]) -> Vec<(String, String)> {
    let numbered = keys.iter().enumerate();
    numbered
        .flat_map(|(n, key)| {
            [(format!("Tag.{}.Key", n + 1), key.clone()), (format!("Tag.{}.Value", n + 1), "v".to_owned())]
        })
        .collect()
}

async fn create_tags(by: &Client, ids: &[&str], keys: &[String]) -> crate::client::Reply {
    let mut all: Vec<_> = tags(keys);
    all.extend(ids.iter().enumerate().map(|(n, id)| (format!("ResourceId.{}", n + 1), (*id).to_owned())));
    let borrowed: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    by.ec2("CreateTags", &borrowed).await
}

#[tokio::test]
async fn a_key_given_twice_is_refused() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let twice = [
        ("AvailabilityZone", "eu-central-1a"),
        ("Size", "1"),
        ("TagSpecification.1.ResourceType", "volume"),
        ("TagSpecification.1.Tag.1.Key", "a"),
        ("TagSpecification.1.Tag.2.Key", "a"),
    ];
    let refused = admin.ec2("CreateVolume", &twice).await;
    assert!(
        refused
            .assert_refused("InvalidParameterValue")
            .text()
            .contains("Duplicate tag key &apos;a&apos; specified.")
    );
    assert!(!admin.ec2("DescribeVolumes", &[]).await.text().contains("volumeId"));
    let placed = sim.server.context().place_instance(OWNER, REGION, "web", None, &[1]).unwrap();
    let keys = ["a".to_owned(), "a".to_owned()];
    create_tags(&admin, &[&placed.volumes[0]], &keys).await.assert_refused("InvalidParameterValue");
}

#[tokio::test]
async fn fifty_tags_are_the_most_and_a_refused_call_changes_nothing() {
    let sim = Sim::start().await;
    let admin = sim.admin(OWNER);
    let placed = sim.server.context().place_instance(OWNER, REGION, "web", None, &[1, 1]).unwrap();
    let (one, two) = (placed.volumes[0].as_str(), placed.volumes[1].as_str());
    let before = sim.world().volume_tags(one).unwrap().len();
    let keys: Vec<String> = (0..50 - before).map(|n| format!("k{n}")).collect();
    create_tags(&admin, &[one], &keys).await.assert_done();
    let more = ["one-more".to_owned()];
    create_tags(&admin, &[two, one], &more).await.assert_refused("TagLimitExceeded");
    assert_eq!(sim.world().volume_tags(one).unwrap().len(), 50);
    assert!(!sim.world().volume_tags(two).unwrap().contains_key("one-more"));
    create_tags(&admin, &[one], &keys).await.assert_done();
}
