//! Answers of the query protocols, and every protocol's shape of an error.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use super::xml::Xml;
use crate::faults::body::{self, ReplyBody, full};
use crate::faults::{FaultPlan, Refusal};

/// A document, as the fault plan lets it through.
pub(crate) fn document(text: String, plan: &FaultPlan) -> Response<ReplyBody> {
    let response = Response::builder().status(200).header("content-type", "text/xml;charset=UTF-8");
    response.body(plan.body(vec![Bytes::from(text)])).unwrap_or_else(|_| Response::new(body::empty()))
}

/// JSON, as the fault plan lets it through.
pub(crate) fn json(text: String, plan: &FaultPlan) -> Response<ReplyBody> {
    let response = Response::builder().status(200).header("content-type", "application/x-amz-json-1.1");
    response.body(plan.body(vec![Bytes::from(text)])).unwrap_or_else(|_| Response::new(body::empty()))
}

/// An error in the service's shape.
pub(crate) fn error(service: &str, refusal: &Refusal) -> Response<ReplyBody> {
    let id = format!("{:032x}", rand::random::<u128>());
    let code = own_code(service, &refusal.code);
    let (kind, text) = match service {
        "ebs" => {
            let body = json!({ "Message": refusal.message, "Reason": refusal.reason });
            ("application/json", body.to_string())
        }
        "kms" => {
            let body = json!({ "__type": code, "message": refusal.message });
            ("application/x-amz-json-1.1", body.to_string())
        }
        "sts" | "iam" => {
            let namespace = "https://sts.amazonaws.com/doc/2011-06-15/";
            let text = Xml::document("ErrorResponse", namespace, |xml| {
                xml.nest("Error", |xml| {
                    xml.text("Type", "Sender");
                    xml.text("Code", &code);
                    xml.text("Message", &refusal.message);
                });
                xml.text("RequestId", &id);
            });
            ("text/xml", text)
        }
        _ => {
            let text = Xml::document("Response", "", |xml| {
                xml.nest("Errors", |xml| {
                    xml.nest("Error", |xml| {
                        xml.text("Code", &code);
                        xml.text("Message", &refusal.message);
                    });
                });
                xml.text("RequestID", &id);
            });
            ("text/xml;charset=UTF-8", text)
        }
    };
    Response::builder()
        .status(refusal.status)
        .header("content-type", kind)
        .header("x-amzn-errortype", &code)
        .header("x-amzn-requestid", &id)
        .body(full(text))
        .unwrap_or_else(|_| Response::new(body::empty()))
}

/// The same trouble has different names in different services.
fn own_code(service: &str, code: &str) -> String {
    let own = match (service, code) {
        ("ec2", "InvalidClientTokenId" | "SignatureDoesNotMatch" | "MissingAuthenticationToken") => {
            "AuthFailure"
        }
        ("ec2", "ExpiredToken") => "RequestExpired",
        ("ebs" | "kms", "InvalidClientTokenId") => "UnrecognizedClientException",
        ("ebs" | "kms", "SignatureDoesNotMatch") => "InvalidSignatureException",
        ("ebs" | "kms", "ExpiredToken") => "ExpiredTokenException",
        ("ebs" | "kms", "MissingAuthenticationToken") => "MissingAuthenticationTokenException",
        (_, other) => other,
    };
    own.to_owned()
}
