"""Documents of text processors, browsers and reading devices: one module for each form."""
