//! Writing the XML of the query protocols.

use std::fmt::Write as _;

/// A document in the making.
#[derive(Debug, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// A document whose root has AWS's namespace; `fill` writes what is inside.
    pub(crate) fn document(root: &str, namespace: &str, fill: impl FnOnce(&mut Self)) -> String {
        let mut xml = Self("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned());
        if namespace.is_empty() {
            xml.0.push_str(&format!("<{root}>"));
        } else {
            xml.0.push_str(&format!("<{root} xmlns=\"{namespace}\">"));
        }
        fill(&mut xml);
        xml.0.push_str(&format!("</{root}>"));
        xml.0
    }

    /// An element with elements inside.
    pub(crate) fn nest(&mut self, tag: &str, fill: impl FnOnce(&mut Self)) {
        let _infallible = write!(self.0, "<{tag}>");
        fill(self);
        let _infallible = write!(self.0, "</{tag}>");
    }

    /// An element with text.
    pub(crate) fn text(&mut self, tag: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        let _infallible = write!(self.0, "<{tag}>{}</{tag}>", quick_xml::escape::escape(value.as_str()));
    }

    /// Text inside the element that is open.
    pub(crate) fn inner_text(&mut self, value: &str) {
        self.0.push_str(&quick_xml::escape::escape(value));
    }

    /// An element with text, where there is a value.
    pub(crate) fn maybe<T: std::fmt::Display>(&mut self, tag: &str, value: Option<T>) {
        if let Some(value) = value {
            self.text(tag, value);
        }
    }

    /// A list: `tag` with an `item` for each.
    pub(crate) fn list<T>(
        &mut self,
        tag: &str,
        items: impl IntoIterator<Item = T>,
        mut fill: impl FnMut(&mut Self, T),
    ) {
        self.nest(tag, |xml| {
            for item in items {
                xml.nest("item", |xml| fill(xml, item));
            }
        });
    }
}
