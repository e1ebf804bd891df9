"""Moving garments: the systems that draw videos, trained and measured on one bed."""
