//! What Automatic takes in the whole system: prices and quotas of the node decide, and the job says what was taken, out
//! of what, and why. What was taken is then really done.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use snapferry_api::job::Job;
use snapferry_tests::{Rig, RigOptions, TestInstance};
use snapferry_types::{Transport, TransportWish};

/// Calls of AWS that only one transport makes.
fn traces(rig: &Rig) -> [u64; 3] {
    [
        rig.calls("ebs", "PutSnapshotBlock"),
        rig.calls("ec2", "AttachVolume"),
        rig.calls("ec2", "ImportSnapshot"),
    ]
}

/// The sentence in which a job says what was chosen: all alternatives, in their order, each with time and money.
fn reason(job: &Job) -> String {
    let mut notes = job.tasks.iter().flat_map(|task| &task.notes);
    let note = notes.find(|note| note.text.contains("the least in money and time of"));
    note.unwrap_or_else(|| panic!("nothing is said in {job:#?}")).text.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_and_quotas_of_the_node_decide_what_automatic_takes_and_the_job_says_why() {
    let options = RigOptions { n_agents: 1, with_service_resources: true, ..RigOptions::default() };
    let mut rig = Rig::start(options).await.unwrap();
    let sim = rig.sim.context().clone();
    let instance = TestInstance::place(&sim, "one", 8).unwrap();
    let content = instance.content(&sim).unwrap();
    let point = rig.backed_up(&instance).await.unwrap();
    let original = std::fs::read_to_string(rig.dir.join("agent-1.toml")).unwrap();
    // The volumes have 4,096 blocks: at AWS's prices and quotas 9 s and 2 cents by EBS direct.
    let cases = [
        ("", Transport::EbsDirect, "ebs_direct 9 s, $0.025"),
        ("[agent.quotas]\nput_per_second = 5.0", Transport::HotAdd, "ebs_direct 14 min, $0.025"),
        ("[agent.prices]\nput_per_thousand = 0.1", Transport::HotAdd, "ebs_direct 9 s, $0.410"),
        (
            "[agent.prices]\nput_per_thousand = 0.1\nvolume_gib_month = 1_000.0",
            Transport::Import,
            "hot_add 7 min, $0.326",
        ),
    ];
    for (lines, wanted, says) in cases {
        if !lines.is_empty() {
            rig.reconfigure_agent(|_| format!("{original}\n{lines}\n")).await.unwrap();
        }
        let before = traces(&rig);
        let id = rig.restore_by(point, TransportWish::Automatic, None).await.unwrap();
        let job = rig.succeed(id).await.unwrap();
        let reason = reason(&job);
        assert!(reason.starts_with(&format!("blocks are moved by {}", wanted.as_str())), "{lines}: {reason}");
        assert!(reason.contains(says), "{lines}: {reason}");
        for transport in Transport::ALL {
            assert!(reason.contains(&format!("{} ", transport.as_str())), "{lines}: {reason}");
        }
        assert!(!reason.contains("not possible"), "{lines}: {reason}");
        let did = traces(&rig).iter().zip(before).map(|(after, before)| *after > before).collect::<Vec<_>>();
        assert_eq!(did, Transport::ALL.map(|transport| transport == wanted), "{lines}");
        instance.check(&sim, &job, &content).unwrap();
        rig.nothing_is_left().unwrap();
    }

    // A full backup has the same choice, but for Import, which only writes.
    rig.reconfigure_agent(|_| format!("{original}\n[agent.prices]\nget_per_thousand = 0.1\n")).await.unwrap();
    let other = TestInstance::place(&sim, "two", 8).unwrap();
    let id = rig.back_up_by(&other.id, TransportWish::Automatic).await.unwrap();
    let reason = reason(&rig.succeed(id).await.unwrap());
    assert!(reason.starts_with("blocks are moved by hot_add"), "{reason}");
    assert!(reason.contains("import not possible: Import only writes"), "{reason}");
    rig.only_these_are_left(4, 2 + 2 * 4 + 2).await.unwrap();
}
