"""The conformance kit: it says which quantity of an implementation first departs from the mathematics, and why."""
