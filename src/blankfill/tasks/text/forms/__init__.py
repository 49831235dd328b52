"""Tasks as texts: `forms.yaml`, which `tasks.text_form` reads."""
