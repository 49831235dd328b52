document.getElementById("app").textContent = "blankfill";
