//! Marketplace product codes: whose they are, where they go, and DescribeVolumeAttribute, which shows a volume's.

use super::Call;
use crate::faults::Refusal;
use crate::server::form::ec2_error;
use crate::server::xml::Xml;
use crate::world::Marks;

/// Codes follow what carries them: from snapshot to volume to instance and back.
pub(super) fn add(to: &mut Marks, from: &Marks) {
    for code in &from.product_codes {
        if !to.product_codes.contains(code) {
            to.product_codes.push(code.clone());
        }
    }
}

/// What a thing made of another one inherits: its codes, and nothing else.
pub(super) fn inherited(from: &Marks) -> Marks {
    Marks { product_codes: from.product_codes.clone(), ..Marks::default() }
}

/// `productCodes`.
pub(super) fn write(xml: &mut Xml, marks: &Marks) {
    xml.list("productCodes", &marks.product_codes, |xml, code| {
        xml.text("productCode", code);
        xml.text("type", "marketplace");
    });
}

pub(super) fn of_volume(call: &Call<'_>) -> Result<String, Refusal> {
    let (id, attribute) = (call.form.required("VolumeId")?, call.form.required("Attribute")?);
    let volume = call.context.world.read().volume(call.account(), call.region, id)?.clone();
    call.permit(&call.asked_of("volume", id, &volume.tags))?;
    if !matches!(attribute, "productCodes" | "autoEnableIO") {
        return Err(ec2_error(
            "InvalidParameterValue",
            format!("Value ({attribute}) for parameter attribute is invalid. Unknown attribute."),
        ));
    }
    Ok(call.reply(|xml| {
        xml.text("volumeId", id);
        if attribute == "productCodes" {
            write(xml, &volume.marks);
        } else {
            xml.nest("autoEnableIO", |xml| xml.text("value", false));
        }
    }))
}
