/* The start of the page, after all panels are registered. */
"use strict";
blankfill.start();
