//! What S3 answers when it does not do what it was asked, in S3's own codes and XML.

use std::io;

use http::Response;

use crate::faults::Refusal;
use crate::faults::body::{self, ReplyBody, full};
use crate::server::xml::Xml;

/// A refusal, and where the bucket is when the request went to the wrong region.
#[derive(Debug)]
pub(crate) struct S3Error {
    refusal: Refusal,
    region: Option<String>,
}

impl S3Error {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Refusal::new(status, code, None, message).into()
    }

    pub(super) fn no_such_bucket() -> Self {
        Self::new(404, "NoSuchBucket", "The specified bucket does not exist")
    }

    pub(super) fn no_such_key() -> Self {
        Self::new(404, "NoSuchKey", "The specified key does not exist.")
    }

    pub(super) fn no_such_upload() -> Self {
        let message = "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
        Self::new(404, "NoSuchUpload", message)
    }

    pub(super) fn access_denied(message: impl Into<String>) -> Self {
        Self::new(403, "AccessDenied", message)
    }

    pub(super) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidArgument", message)
    }

    pub(super) fn malformed_xml(error: impl std::fmt::Display) -> Self {
        let message =
            "The XML you provided was not well-formed or did not validate against our published schema";
        Self::new(400, "MalformedXML", format!("{message}: {error}"))
    }

    pub(super) fn not_implemented(what: &str) -> Self {
        Self::new(501, "NotImplemented", format!("This simulator does not implement {what}."))
    }

    pub(super) fn precondition_failed() -> Self {
        let message = "At least one of the pre-conditions you specified did not hold";
        Self::new(412, "PreconditionFailed", message)
    }

    /// The bucket is in `region`, and the request was signed for another.
    pub(super) fn other_region(region: &str) -> Self {
        let message = "The bucket you are attempting to access must be addressed using the specified endpoint. Please send all future requests to this endpoint.";
        let refusal = Refusal::new(301, "PermanentRedirect", None, message);
        Self { refusal, region: Some(region.to_owned()) }
    }

    pub(super) fn response(self) -> Response<ReplyBody> {
        let (status, code) = self.status_and_code();
        let id = format!("{:032x}", rand::random::<u128>());
        let text = Xml::document("Error", "", |xml| {
            xml.text("Code", code);
            xml.text("Message", &self.refusal.message);
            if let Some(region) = &self.region {
                xml.text("Endpoint", format!("s3.{region}.amazonaws.com"));
                xml.text("Region", region);
            }
            xml.text("RequestId", &id);
        });
        let mut response = Response::builder()
            .status(status)
            .header("content-type", "application/xml")
            .header("x-amz-request-id", id);
        if let Some(region) = &self.region {
            response = response.header("x-amz-bucket-region", region);
        }
        // HTTP has no body for 304.
        let body = if status == 304 { body::empty() } else { full(text) };
        response.body(body).unwrap_or_else(|_| Response::new(body::empty()))
    }

    /// The same trouble has different names in different services.
    fn status_and_code(&self) -> (u16, &str) {
        match self.refusal.code.as_str() {
            "InvalidClientTokenId" => (403, "InvalidAccessKeyId"),
            "ExpiredToken" => (400, "ExpiredToken"),
            "MissingAuthenticationToken" => (403, "AccessDenied"),
            "IncompleteSignature" => (400, "AuthorizationHeaderMalformed"),
            "Throttling" | "RequestThrottledException" => (503, "SlowDown"),
            code => (self.refusal.status, code),
        }
    }
}

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, region: None }
    }
}

impl From<io::Error> for S3Error {
    fn from(error: io::Error) -> Self {
        Self::new(500, "InternalError", format!("We encountered an internal error: {error}"))
    }
}
